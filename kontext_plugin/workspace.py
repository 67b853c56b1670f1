"""What a mirror, which removes all that an image does not have, must not remove.

A directory that sources are written into, whatever lies there and whoever else writes to it.

What is in the way, and which modes things get, is as the extractor has it (extractor/place.go).

The contents of an image's sources, as `crane export` shows them and its manifest vouches for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.tree import Tree
from kontext_plugin.layer.reader import ExportReader, most_bytes, most_unpacked
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.files import DirTree

GIT = ".git"
"""Stays, wherever it lies: what was never pushed is nowhere else."""


def check_mirror(directory: str, home: str) -> None:
    """Raises KontextError where a mirror would remove what nobody means to lose.

    That is the home directory and all above it, by whatever links they are named.
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


_PIECE = 1024 * 1024

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_HINTS = {
    errno.ENOSPC: "Free some space and pull again: what was written is not written again.",
    errno.EDQUOT: "Free some space and pull again: what was written is not written again.",
    errno.EROFS: "Name a directory on a file system that can be written to.",
    errno.EACCES: "Name a directory that you may write to, or ask its owner.",
    errno.EPERM: "Name a directory that you may write to, or ask its owner.",
    errno.EISDIR: "There is a .git below the directory in its place: move that away first.",
}

State = Literal["right", "changed", "wrong"]
"""Of a file: as it should be; so now, as its mode alone was another; its content is another."""


@dataclass(frozen=True)
class File:
    """A regular file as it should be."""

    path: str
    digest: str  # hex SHA-256
    size: int | None  # bytes; None: not known
    executable: bool

    @property
    def mode(self) -> int:
        return 0o755 if self.executable else 0o644


class Workspace:
    """The directory, made if need be, with its parents. As a context it is closed at the end.

    Each directory on the way to anything is opened from its parent and no link is followed, so
    nothing outside is ever touched. All methods raise KontextError.
    """

    def __init__(self, directory: str) -> None:
        self.root = os.path.abspath(directory)
        with self._telling("", "written to"), _masked():
            try:
                os.makedirs(self.root, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise KontextError(
                    f"{self.root!r} is not a directory, nor can it be made one",
                    hint="Name a directory, or one that is to be made.",
                ) from error
            self._opened = DirTree(self.root)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.__exit__()

    def make_directory(self, path: str) -> None:
        """Puts a directory in the place of anything else. Its owner may use one that is there."""
        with self._telling(path, "made"):
            folder, name = self._place(path)
            status = _lstat(folder, name)
            if status and stat.S_ISDIR(status.st_mode):
                _open_up(folder, name, status)
                return
            if status:
                os.unlink(name, dir_fd=folder)
            with _masked():
                os.mkdir(name, 0o755, dir_fd=folder)

    def settle(self, file: File) -> State:
        """Looks what is there, by content; a wrong mode alone is set right."""
        try:
            folder, name = self._place(file.path)
            status = _lstat(folder, name)
            if not status or not stat.S_ISREG(status.st_mode):
                return "wrong"
            if file.size not in (None, status.st_size):
                return "wrong"
            opened = self._opened.file(file.path)
        except OSError:  # writing it anew tells why
            return "wrong"
        try:
            return _settle(opened, file)
        except OSError:
            return "wrong"
        finally:
            os.close(opened)

    def place_link(self, path: str, target: str) -> bool:
        """Whether the link had to be made."""
        with self._telling(path, "written"):
            folder, name = self._place(path)
            with contextlib.suppress(OSError):
                if os.readlink(name, dir_fd=folder) == target:
                    return False
            with self._replacing(path) as (folder, temporary):
                os.symlink(target, temporary, dir_fd=folder)
        return True

    def write(self, file: File, content: Iterable[bytes]) -> None:
        """Puts a file in the place of anything else, at once and as a whole.

        Raises ValueError, and leaves all as it was, if the content is not that of the digest.
        """
        with self._telling(file.path, "written"), self._replacing(file.path) as place:
            folder, temporary = place
            with _masked():
                opened = os.open(temporary, _WRITE, file.mode, dir_fd=folder)
            with os.fdopen(opened, "wb", buffering=0) as written:
                # A default ACL, or a disk that has one mode for all, may have its own.
                if stat.S_IMODE(os.fstat(opened).st_mode) != file.mode:
                    os.fchmod(opened, file.mode)
                digest = hashlib.sha256()
                for piece in content:
                    digest.update(piece)
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[written.write(rest) :]
            if digest.hexdigest() != file.digest:
                raise ValueError(f"{file.path!r} has other content")

    def mirror(self, tree: Tree) -> int:
        """Removes what the tree does not have, and counts it: a whole directory is one thing.

        A `.git` that the tree does not have stays, wherever it lies, with what leads to it.
        """
        names: dict[str, set[str]] = {folder: set() for folder in ("", *tree.directories())}
        for path in tree.paths():
            above, _, name = path.rpartition("/")
            names[above].add(name)
        removed = 0
        for folder in sorted(names):
            with self._telling(folder, "listed"):
                extra = set(os.listdir(self._opened.folder(folder))) - names[folder] - {GIT}
            for name in sorted(extra):
                removed += self._remove(f"{folder}/{name}" if folder else name, spared=GIT)
        return removed

    def _place(self, path: str) -> tuple[int, str]:
        """The descriptor of the directory, good until the next call, and the name in it."""
        above, _, name = path.rpartition("/")
        return self._opened.folder(above), name

    @contextlib.contextmanager
    def _replacing(self, path: str) -> Iterator[tuple[int, str]]:
        """A temporary name, beside what it replaces when the block has ended well.

        Raises IsADirectoryError for a directory with a `.git` below it, and leaves it alone.
        """
        temporary = f".kontext-{secrets.token_hex(16)}"  # `path` may be as long as a name can be
        try:
            yield self._place(path)[0], temporary
            folder, name = self._place(path)
            try:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except IsADirectoryError:
                if self._holds_git(path):
                    raise
                self._remove(path)
                folder, name = self._place(path)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._place(path)[0])
            raise

    def _holds_git(self, path: str) -> bool:
        """Whether there is one below a directory. Raises OSError."""
        pending = [path]
        while pending:
            path = pending.pop()
            with os.scandir(self._opened.folder(path)) as entries:
                for entry in entries:
                    if entry.name == GIT:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{path}/{entry.name}")
        return False

    def _remove(self, path: str, spared: str = "") -> bool:
        """Removes what is there, with all below it, and says whether there was anything.

        What has the name `spared` stays, and with it the directories above.
        """
        pending, listed, kept = [path], set(), set()
        removed = False
        while pending:  # a loop, since a tree can be deeper than Python's stack
            path = pending[-1]
            with self._telling(path, "removed"):
                folder, name = self._place(path)
                status = _lstat(folder, name)
                directory = status is not None and stat.S_ISDIR(status.st_mode)
                if directory and path not in listed:
                    listed.add(path)
                    names = set(os.listdir(self._opened.folder(path)))
                    if spared in names:
                        kept.add(path)
                    pending += [f"{path}/{name}" for name in sorted(names - {spared})]
                    continue
                pending.pop()
                if path in kept:
                    kept.add(path.rpartition("/")[0])
                elif status:
                    (os.rmdir if directory else os.unlink)(name, dir_fd=folder)
                    removed = True
        return removed

    @contextlib.contextmanager
    def _telling(self, path: str, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            raise KontextError(
                f"{os.path.join(self.root, path).rstrip('/')!r} cannot be {done}: {error.strerror}",
                hint=_HINTS.get(number, ""),
            ) from error


@contextlib.contextmanager
def _masked() -> Iterator[None]:
    """Whatever the umask, directories are to be 0755, and files 0755 or 0644."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def _lstat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _open_up(folder: int, name: str, status: os.stat_result) -> None:
    """Makes a directory usable to its owner, and leaves a usable one alone."""
    mode, user = stat.S_IMODE(status.st_mode), os.geteuid()
    if user == 0 or status.st_uid != user or mode & 0o700 == 0o700:
        return
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, mode | 0o700, dir_fd=folder, follow_symlinks=False)
        return
    # Linux: a link that took its place must not be followed, and it may be unreadable.
    opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{opened}", mode | 0o700)
    finally:
        os.close(opened)


def _settle(opened: int, file: File) -> State:
    status = os.fstat(opened)
    digest, left = hashlib.sha256(), status.st_size + 1  # it may grow as fast as it is read
    while left > 0 and (chunk := os.read(opened, min(left, _PIECE))):
        digest.update(chunk)
        left -= len(chunk)
    if digest.hexdigest() != file.digest or not stat.S_ISREG(status.st_mode):
        return "wrong"
    if bool(status.st_mode & stat.S_IXUSR) == file.executable:
        return "right"
    if status.st_nlink > 1:  # it may share its mode with a file outside
        return "wrong"
    os.fchmod(opened, file.mode)  # fails for another user's file
    return "changed"


def files_of(found: KontextImage) -> list[File]:
    """The regular files of an image. Version 1 of the manifest lists no sizes."""
    tree = found.manifest.tree
    return [
        File(
            path,
            tree.files[path],
            tree.sizes[path] if found.manifest.lineage else None,
            path in tree.executable,
        )
        for path in sorted(tree.sizes)
    ]


def write_files(
    registry: Crane,
    name: Reference,
    found: KontextImage,
    target: Workspace,
    wanted: Mapping[str, File],
) -> None:
    """Writes the wanted files of the image that `name` was found to be; reads no further than that.

    Raises KontextError where the image has not what its manifest says.
    """
    limit = most_bytes(found.manifest.tree)
    if found.manifest.lineage is None:
        limit += most_unpacked(found.image.layers)
    missing = dict(wanted)
    try:
        with registry.export(name.at(found.image.digest)) as stream:
            export = ExportReader(stream, limit)
            for entry in export.entries():
                file = missing.pop(entry.path, None)
                if file is None:
                    continue
                if entry.what != "a file":
                    raise ValueError(f"{entry.path!r} is {entry.what}, not a file")
                if file.size not in (None, entry.size):
                    raise ValueError(f"{entry.path!r} has another size")
                target.write(file, export.content())
                if not missing:
                    return
            raise ValueError(f"{min(missing)!r} is missing")
    except ValueError as error:
        raise KontextError(
            f"{name} is not what its manifest says: {error}",
            hint="What was written is as the manifest says. Push the image again with --fresh; "
            "'docker kontext verify' shows all that is wrong with it.",
        ) from error
