"""Programs that work in a directory while it is pushed: imitations, each from a seed.

    python -m support.writers NAME SEED DIRECTORY

runs one until it is killed. Each file that is replaced as a whole ends with the digest of what
stands before (`is_whole`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_DIGEST = 64  # hex digits


def whole(chance: random.Random, size: int) -> bytes:
    """Return content of about `size` bytes, with its digest at the end."""
    content = chance.randbytes(16) * (size // 16 + 1)
    return content + hashlib.sha256(content).hexdigest().encode()


def is_whole(content: bytes) -> bool:
    """Whether a file was written to its end, and is no mixture of two versions."""
    return hashlib.sha256(content[:-_DIGEST]).hexdigest().encode() == content[-_DIGEST:]


def _pause(chance: random.Random) -> None:
    time.sleep(chance.uniform(0.001, 0.02))


def install_packages(root: Path, chance: random.Random) -> None:
    """Unpack packages into a staging directory, rename them into place, remove old ones."""
    modules = root / "node_modules"
    while True:
        name = f"package-{chance.randrange(12)}"
        staged = modules / ".staging" / f"{name}-{chance.randrange(10**6):x}"
        (staged / "lib").mkdir(parents=True)
        for number in range(chance.randrange(1, 8)):
            (staged / "lib" / f"{number}.js").write_bytes(whole(chance, 2000))
        (staged / "package.json").write_bytes(whole(chance, 300))
        _pause(chance)
        shutil.rmtree(modules / name, ignore_errors=True)
        staged.rename(modules / name)
        (modules / ".bin").mkdir(exist_ok=True)
        new = modules / ".bin" / ".new"
        target = f"../{name}/lib/0.js"
        new.unlink(missing_ok=True)
        if chance.random() < 0.5:  # a command is a link or a script
            new.symlink_to(target)
        else:
            new.write_bytes(whole(chance, 50))
        new.rename(modules / ".bin" / f"command-{chance.randrange(3)}")
        if chance.random() < 0.2:
            shutil.rmtree(modules / ".staging", ignore_errors=True)
        _pause(chance)


def compile_objects(root: Path, chance: random.Random) -> None:
    """Write objects in place, piece by piece; make temporary files; link and clean now and then."""
    build = root / "build"
    while True:
        build.mkdir(exist_ok=True)
        temporary = build / f"cc{chance.randrange(10**6):06x}.s"
        temporary.write_bytes(whole(chance, 5000))
        _pause(chance)
        with (build / f"object-{chance.randrange(10)}.o").open("wb") as file:
            content = whole(chance, 200_000)
            for start in range(0, len(content), 65536):
                file.write(content[start : start + 65536])
                file.flush()
                time.sleep(0.001)
        temporary.unlink()
        program = build / ".program"
        program.write_bytes(whole(chance, 400_000))
        program.chmod(0o755)
        program.rename(build / "program")
        if chance.random() < 0.03:
            shutil.rmtree(build)
        _pause(chance)


def edit(root: Path, chance: random.Random) -> None:
    """Save as editors do: a new file renamed over the old one, or in place, and lock files."""
    source = root / "src"
    source.mkdir(exist_ok=True)
    while True:
        path = source / f"file-{chance.randrange(6)}.c"
        lock = source / f".#{path.name}"
        lock.unlink(missing_ok=True)
        lock.symlink_to("user@host.1234:5678")
        way = chance.randrange(4)
        if way == 0:
            path.write_bytes(whole(chance, 3000))
        elif way == 1:  # a backup, and a new file
            with contextlib.suppress(FileNotFoundError):
                path.rename(f"{path}~")
            path.write_bytes(whole(chance, 3000))
        else:
            (source / f".{path.name}.swp").write_bytes(whole(chance, 4096))
            (source / "4913").touch()  # vim's probe
            (source / "4913").unlink()
            (source / f".{path.name}.tmp").write_bytes(whole(chance, 3000))
            (source / f".{path.name}.tmp").rename(path)
            path.chmod(chance.choice([0o644, 0o755]))
            (source / f".{path.name}.swp").unlink()
        lock.unlink()
        _pause(chance)


WRITERS: dict[str, Callable[[Path, random.Random], None]] = {
    "npm": install_packages,
    "compiler": compile_objects,
    "editor": edit,
}


@contextlib.contextmanager
def working(directory: Path, seed: int, names: tuple[str, ...] = tuple(WRITERS)) -> Iterator[None]:
    """Have the writers work in the directory during the block. Assert that none has failed."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "support.writers", name, str(seed), str(directory)],
            env=os.environ | {"PYTHONPATH": path},
            stderr=subprocess.PIPE,
        )
        for name in names
    ]
    try:
        time.sleep(0.5)
        yield
        assert [process.poll() for process in running] == [None] * len(running)
    finally:
        for process in running:
            process.kill()
        said = [process.communicate()[1].decode() for process in running]
    assert said == [""] * len(running)


if __name__ == "__main__":
    WRITERS[sys.argv[1]](Path(sys.argv[3]), random.Random(int(sys.argv[2])))
