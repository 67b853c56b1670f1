"""A machine that pushes, with its own source directory, cache and temporary files."""

from __future__ import annotations

import io
import os
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.measured import run_measured
from support.services import PASSWORD, Docker, Registry, Result
from support.trees import File, Tree, in_archive, on_disk, plant

SHIM = Path(__file__).parents[2] / "kontext_plugin" / "docker-kontext"


@dataclass
class Machine:
    """Pushes to the registry at `host`, which may be a proxy. `direct` is the registry itself."""

    folder: Path
    host: str
    direct: str
    crane: str
    repository: str = "test/only"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in (self.source, self.temporary, self.folder / "docker"):
            folder.mkdir(parents=True)
        Docker(self.folder / "docker").log_in(self.host)
        self.forget()
        self.environment |= {
            "HOME": str(self.folder),
            "TMPDIR": str(self.temporary),
            "DOCKER_CONFIG": str(self.folder / "docker"),
        }

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def cache(self) -> Path:
        return Path(self.environment["KONTEXT_CACHE_DIR"])

    @property
    def tag(self) -> str:
        return f"{self.host}/{self.repository}:v1"

    def forget(self) -> None:
        """Use a new and empty cache, as another machine would."""
        number = 0
        while (cache := self.folder / f"cache {number}").exists():
            number += 1
        self.environment["KONTEXT_CACHE_DIR"] = str(cache)

    def start(self, *options: str, debug: bool = False) -> subprocess.Popen[bytes]:
        """Start a push of the source directory."""
        return self.begin("push", "-t", self.tag, *options, self.source, debug=debug)

    def begin(
        self, *arguments: str | Path, debug: bool = False, apart: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a command of the plugin as docker does, so that the process is Python's own.

        `apart`: in a process group of its own.
        """
        flags = ["-D"] if debug else []
        return subprocess.Popen(
            [SHIM, *flags, "kontext", *arguments],
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=apart,
        )

    def push(self, *options: str, debug: bool = False) -> Result:
        """Push the source directory. With `debug`, the messages say what the push builds on."""
        return ended(self.start(*options, debug=debug))

    def kontext(self, *arguments: str | Path) -> Result:
        """Run a command of the plugin."""
        return ended(self.begin(*arguments))

    def kontext_measured(self, seconds: float, *arguments: str | Path) -> tuple[Result, int]:
        """Run a command of the plugin, as `run_measured`."""
        return run_measured([SHIM, "kontext", *arguments], os.environ | self.environment, seconds)

    def tree(self) -> Tree:
        return on_disk(self.source)

    def published(self, platform: str = "linux/amd64") -> Tree | None:
        """Return the sources under the tag, or None. The proxy is not asked."""
        config = self.folder / "direct"
        if not config.exists():
            config.mkdir()
            Docker(config).log_in(self.direct)
        done = subprocess.run(
            [
                *(self.crane, "export", "--platform", platform),
                *(f"{self.direct}/{self.repository}:v1", "-"),
            ],
            env=os.environ | {"DOCKER_CONFIG": str(config)},
            capture_output=True,
        )
        if done.returncode:
            assert b"_UNKNOWN" in done.stderr, done.stderr
            return None
        return in_archive(io.BytesIO(done.stdout))

    def processes(self) -> dict[int, str]:
        """Return the names of this machine's processes by their IDs."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
                name = os.path.basename((folder / "cmdline").read_bytes().partition(b"\0")[0])
            except OSError:
                continue
            if f"TMPDIR={self.temporary}\0".encode() in environment:
                found[int(folder.name)] = os.fsdecode(name)
        return found

    def cranes(self) -> list[int]:
        """Return the process IDs of this machine's crane processes."""
        return [process for process, name in self.processes().items() if name == "crane"]

    def assert_clean(self) -> None:
        """Assert that no process runs, and that no temporary file is left."""
        assert ends_within(5, lambda: not self.processes()), f"{self.processes()} still run"
        left = [path.name for path in self.temporary.iterdir()]
        kept = [path.name for path in self.cache.glob("*")] if self.cache.is_dir() else []
        left += sorted({*kept} - {"stats", "published", "pushed", "layers"})
        assert not left, f"{left} is left"

    def assert_failed(self, pushed: Result, message: str) -> None:
        """Assert exit code 1, one error with a hint, and no output, traceback or secret."""
        assert (pushed.code, pushed.stdout) == (1, ""), pushed
        assert pushed.stderr.count("ERROR: ") == 1, pushed.stderr
        said = pushed.stderr[pushed.stderr.index("ERROR: ") :]
        assert len(said.strip().splitlines()) == 2, said
        assert message in said
        for never in ("Traceback", "bug in Kontext", PASSWORD, "\x1b", "\x00"):
            assert never not in pushed.stderr, pushed.stderr


def ended(process: subprocess.Popen[bytes]) -> Result:
    """Wait for a process; return its exit code and what it printed."""
    output, messages = process.communicate(timeout=120)
    return Result(process.returncode, output.decode(), messages.decode())


def ends_within(seconds: float, done: Callable[[], bool], every: float = 0.02) -> bool:
    limit = time.monotonic() + seconds
    while not done():
        if time.monotonic() > limit:
            return False
        time.sleep(every)
    return True


def new_machine(folder: Path, registry: Registry, crane: str, host: str = "") -> Machine:
    """Return a machine with a repository of its own. `host` is a proxy, if there is one."""
    repository = registry.repository().partition("/")[2]
    return Machine(folder, host or registry.host, registry.host, crane, repository)


def change(machine: Machine, chance: random.Random) -> None:
    """Write 3 MB of new content, and change one of up to nine small files."""
    plant(
        machine.source,
        {
            "large": File(chance.randbytes(3_000_000)),
            f"files/{chance.randrange(9)}": File(chance.randbytes(chance.randrange(5000))),
        },
    )
