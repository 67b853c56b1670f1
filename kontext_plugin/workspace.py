"""A workspace: a directory that an image's sources are written into.

Whatever lies there, and whoever else writes to it, no link is followed and nothing outside is
touched. The extractor in the image has the same rules for what is in the way, for modes and for a
mirror (extractor/place.go, extractor/mirror.go); tests/data/mirror_cases.json holds both to them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

from kontext_plugin.errors import KontextError
from kontext_plugin.image.tree import Tree
from kontext_plugin.runtime.files import DirTree, hash_file
from kontext_plugin.terminal.steps import Step

GIT = ".git"
"""What a mirror keeps wherever it lies: a repository that was never pushed is nowhere else."""


def check_mirror(directory: str, home: str) -> None:
    """Raise KontextError where a mirror would empty the home directory or one above it.

    Links that lead there count as well.
    """
    above = os.path.realpath(home)
    while True:
        with contextlib.suppress(OSError):
            if os.path.samefile(directory, above):
                raise KontextError(
                    f"refusing --mirror: {directory!r} is the home directory, or contains it",
                    hint="Name a directory of its own.",
                )
        if above == os.path.dirname(above):
            return
        above = os.path.dirname(above)


def folded_pairs(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of paths in one directory that differ only in case, or in how they are encoded.

    Some file systems take such names for one: those of macOS and Windows do by default. `paths`
    must include all directories.
    """
    firsts: dict[str, str] = {}
    for path in sorted(paths):
        first = firsts.setdefault(_fold(path), path)
        if first != path and first.rpartition("/")[0] == path.rpartition("/")[0]:
            yield first, path


def _fold(path: str) -> str:
    if path.isascii():  # ten times as fast
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


_MAX_PROBES = 100
"""Pairs that the file system is asked for. An image may have a million of them."""

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_UMASK = 0o022
"""Whatever the umask is, new directories have the mode 0755, and files 0755 or 0644."""

_HINTS = {
    errno.ENOSPC: "Free some space and pull again: the pull continues where it stopped.",
    errno.EDQUOT: "Free some space and pull again: the pull continues where it stopped.",
    errno.EROFS: "Name a directory on a file system that can be written to.",
    errno.EACCES: "Name a directory that you may write to, or ask its owner.",
    errno.EPERM: "Name a directory that you may write to, or ask its owner.",
    errno.EISDIR: "The directory in its place contains a .git. Move the .git away first.",
}

State = Literal["right", "changed", "wrong"]
"""Of a file: as it should be; right since its mode was changed; of another content or kind."""


class File(NamedTuple):
    """A regular file as the workspace should have it."""

    path: str
    digest: str  # hex SHA-256
    size: int | None  # bytes; None: not known
    executable: bool

    @property
    def mode(self) -> int:
        return 0o755 if self.executable else 0o644


class OtherContent(ValueError):
    """A file that is not as the workspace should have it; the text says which, and why."""


class Workspace:
    """The directory, which is made if it does not exist. A context manager that closes it.

    Each directory on a path is opened from its parent and no link is followed, so nothing outside
    is ever touched. All methods raise KontextError.

    In the block of the context manager, new directories have the mode 0755, and files 0755 or 0644,
    whatever the umask was before.
    """

    def __init__(self, directory: str, temporary: str = ".kontext") -> None:
        """Names of temporary files begin with `temporary`."""
        self.root = os.path.abspath(directory)
        # A name of its own: that of a path may be as long as a name can be.
        self.temporary = f"{temporary}-{secrets.token_hex(16)}"
        self._made: set[str] = set()  # directories, where nothing was before
        umask = os.umask(_UMASK)
        try:
            with self._explaining("", "written to"):
                try:
                    os.makedirs(self.root, exist_ok=True)
                except (FileExistsError, NotADirectoryError) as error:
                    raise KontextError(
                        f"{self.root!r} is not a directory", hint="Name a directory."
                    ) from error
                self._tree = DirTree(self.root)
        finally:
            os.umask(umask)

    def __enter__(self) -> Workspace:
        self._umask = os.umask(_UMASK)
        return self

    def __exit__(self, *_: object) -> None:
        os.umask(self._umask)
        self._tree.__exit__()

    def make_directory(self, path: str) -> None:
        """Make a directory, also in the place of anything else. Give its owner access."""
        with self._explaining(path, "made"):
            parent, name = self._place(path)
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    _open_up(parent, name, status)
                    return
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o755, dir_fd=parent)
            self._made.add(path)

    def check_names(self, tree: Tree) -> None:
        """Raise KontextError if the file system cannot hold all paths of a tree side by side.

        It would keep one file of two, and each pull would write the other one.
        """
        for first, second in islice(folded_pairs(tree.paths()), _MAX_PROBES):
            if self._is_one_name(os.path.basename(first), os.path.basename(second)):
                raise KontextError(
                    f"the file system of {self.root!r} takes {first!r} and {second!r} for one name",
                    hint="Nothing was written. Pull into a directory on a file system that tells "
                    "them apart, or rename one of them and push again.",
                )

    def _is_one_name(self, one: str, other: str) -> bool:
        """Return whether a file can be opened by another name. The file system itself knows."""
        try:
            with self._explaining("", "written to"):
                os.mkdir(self.temporary, 0o700, dir_fd=self._tree.open_directory(""))
                parent = self._tree.open_directory(self.temporary)
                os.close(os.open(one, _WRITE, 0o600, dir_fd=parent))
                return _lstat(parent, other) is not None
        finally:
            self._remove(self.temporary)

    def reconcile(self, file: File, step: Step | None = None) -> State:
        """Compare a file with what is there, by content; correct a mode that alone is wrong.

        The bytes that are read count as done in the step.
        """
        if file.path.rpartition("/")[0] in self._made:
            return "wrong"
        try:
            parent, name = self._place(file.path)
            status = _lstat(parent, name)
            if not status or not stat.S_ISREG(status.st_mode):
                return "wrong"
            if file.size not in (None, status.st_size):
                return "wrong"
            opened = self._tree.open_file(file.path)
        except OSError:  # writing it again tells why
            return "wrong"
        try:
            return _reconcile(opened, file, step)
        except OSError:
            return "wrong"
        finally:
            os.close(opened)

    def place_link(self, path: str, target: str) -> bool:
        """Make a symbolic link; return whether it was not there yet."""
        with self._explaining(path, "written"):
            parent, name = self._place(path)
            with contextlib.suppress(OSError):
                if os.readlink(name, dir_fd=parent) == target:
                    return False
            self._replace(path, lambda parent, name: os.symlink(target, name, dir_fd=parent))
        return True

    def write(self, file: File, content: Iterable[bytes]) -> None:
        """Write a file, also in the place of anything else, as a whole or not at all.

        Raises OtherContent, and changes nothing, if the content does not have the file's digest.
        """
        try:
            self._replace(file.path, lambda parent, name: _create(parent, name, file, content))
        except OSError as error:
            raise self._explained(file.path, "written", error) from error

    def mirror(self, tree: Tree) -> int:
        """Remove what the tree does not have; return how many, a whole directory counting as one.

        A `.git` that the tree does not have stays, with the directories that lead to it.
        """
        names: dict[str, set[str]] = {directory: set() for directory in ("", *tree.directories())}
        for path in tree.paths():
            above, _, name = path.rpartition("/")
            names[above].add(name)
        removed = 0
        for directory in sorted(names):
            with self._explaining(directory, "listed"):
                listed = set(os.listdir(self._tree.open_directory(directory)))
            for name in sorted(listed - names[directory] - {GIT}):
                removed += self._remove(f"{directory}/{name}" if directory else name, spared=GIT)
        return removed

    def clear(self, paths: Iterable[str]) -> None:
        """Remove what killed processes with this workspace's temporary names left beside paths."""
        for directory in sorted({path.rpartition("/")[0] for path in paths}):
            with contextlib.suppress(OSError):
                parent = self._tree.open_directory(directory)
                for name in os.listdir(parent):
                    if name.startswith(self.temporary):
                        with contextlib.suppress(OSError):
                            os.unlink(name, dir_fd=parent)

    def _place(self, path: str) -> tuple[int, str]:
        """Return the descriptor of the parent, valid until the next call, and the name."""
        above, _, name = path.rpartition("/")
        return self._tree.open_directory(above), name

    def _replace(self, path: str, create: Callable[[int, str], None]) -> None:
        """Create something under a temporary name in the same directory; rename it to `path`.

        `create` gets the descriptor of the directory and the name. Raises IsADirectoryError where
        `path` is a directory with a `.git` below it, and leaves that alone.
        """
        temporary = self.temporary
        parent, name = self._place(path)
        try:
            create(parent, temporary)
            try:
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except IsADirectoryError:
                if self._holds_git(path):
                    raise
                self._remove(path)
                parent, name = self._place(path)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._place(path)[0])
            raise

    def _holds_git(self, path: str) -> bool:
        """Whether a `.git` lies below a directory. Raises OSError."""
        pending = [path]
        while pending:
            path = pending.pop()
            with os.scandir(self._tree.open_directory(path)) as entries:
                for entry in entries:
                    if entry.name == GIT:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{path}/{entry.name}")
        return False

    def _remove(self, path: str, spared: str = "") -> bool:
        """Remove a path with everything below it; return whether anything was removed.

        Entries with the name `spared` stay, and the directories above them.
        """
        pending, listed, kept = [path], set(), set()
        removed = False
        while pending:  # a loop, since a tree can be deeper than Python's stack
            path = pending[-1]
            with self._explaining(path, "removed"):
                parent, name = self._place(path)
                status = _lstat(parent, name)
                directory = status is not None and stat.S_ISDIR(status.st_mode)
                if directory and path not in listed:
                    listed.add(path)
                    names = set(os.listdir(self._tree.open_directory(path)))
                    if spared in names:
                        kept.add(path)
                    pending += [f"{path}/{name}" for name in sorted(names - {spared})]
                    continue
                pending.pop()
                if path in kept:
                    kept.add(path.rpartition("/")[0])
                elif status:
                    (os.rmdir if directory else os.unlink)(name, dir_fd=parent)
                    removed = True
        return removed

    @contextlib.contextmanager
    def _explaining(self, path: str, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._explained(path, action, error) from error

    def _explained(self, path: str, action: str, error: OSError) -> KontextError:
        place = os.path.join(self.root, path).rstrip("/")
        return KontextError(
            f"{place!r} cannot be {action}: {error.strerror}",
            hint=_HINTS.get(error.errno or 0, ""),
        )


def _create(parent: int, name: str, file: File, content: Iterable[bytes]) -> None:
    """Write a new file. Raises OSError, and OtherContent where the digest is another one."""
    opened = os.open(name, _WRITE, file.mode, dir_fd=parent)
    try:
        # A default ACL, or a disk with one mode for all files, may override it.
        if stat.S_IMODE(os.fstat(opened).st_mode) != file.mode:
            os.fchmod(opened, file.mode)
        digest = hashlib.sha256()
        for piece in content:
            digest.update(piece)
            while (count := os.write(opened, piece)) < len(piece):
                piece = piece[count:]
    finally:
        os.close(opened)
    if digest.hexdigest() != file.digest:
        raise OtherContent(f"{file.path!r} has other content")


def _lstat(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _open_up(parent: int, name: str, status: os.stat_result) -> None:
    """Give the owner of a directory access to it, if the mode does not."""
    mode, user = stat.S_IMODE(status.st_mode), os.geteuid()
    if user == 0 or status.st_uid != user or mode & 0o700 == 0o700:
        return
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, mode | 0o700, dir_fd=parent, follow_symlinks=False)
        return
    if sys.platform == "linux":
        # The directory may be unreadable, and a link in its place must not be followed.
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{opened}", mode | 0o700)
        finally:
            os.close(opened)


def _reconcile(opened: int, file: File, step: Step | None) -> State:
    def count(piece: bytes) -> None:
        if step:
            step.advance(0, len(piece))

    status = os.fstat(opened)
    if hash_file(opened, status.st_size, count) != file.digest or not stat.S_ISREG(status.st_mode):
        return "wrong"
    if bool(status.st_mode & stat.S_IXUSR) == file.executable:
        return "right"
    if status.st_nlink > 1:  # a file outside may share its mode
        return "wrong"
    os.fchmod(opened, file.mode)  # fails for the file of another user
    return "changed"
