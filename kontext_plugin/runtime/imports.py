"""Import modules late: when something in them is used for the first time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any


@contextmanager
def without(name: str) -> Iterator[None]:
    """Let what the block imports do without the module `name` until it reads an attribute of it.

    importlib.util.LazyLoader does not help: the import itself reads one.
    """
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _StandIn(name)
    try:
        yield
    finally:
        stand_in.leave()


def skip_processor() -> None:
    """Let plumbum read the system's name without starting `uname -p` for that of the processor.

    platform.uname() keeps its answer, and asks for the processor when that is read as a tuple.
    """
    import platform

    with suppress(TypeError):  # a Python whose answer has no place for it
        vars(platform.uname()).setdefault("processor", "")


class _StandIn(ModuleType):
    def leave(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)
