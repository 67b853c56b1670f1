"""How much of an upload has arrived, as far as one can see from outside of crane.

crane reads a layer up to three times, so what it has read says nothing. What it has written, less
what its sockets still hold, is what the other side's machine has; and crane says of each blob when
it is through, or was there already. On loopback and on a slow line that is true to some 100 kB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kontext_plugin import proc
from kontext_plugin.image import Digest
from kontext_plugin.steps import Amount

PUSHED = re.compile(rb"pushed blob: (sha256:[0-9a-f]{64})")
_THERE = re.compile(rb"(?:existing|mounted) blob: (sha256:[0-9a-f]{64})")

_ALL_THERE = b"existing manifest: "


@dataclass
class Transfer:
    """Of the layers of one run of crane, by their sizes in bytes. May be asked by any thread."""

    sizes: Mapping[Digest, int]
    _pid: int = 0  # of crane, once it runs
    _messages: bytearray = field(default_factory=bytearray)
    _arrived: int = 0

    def follow(self, pid: int, messages: bytearray) -> None:
        """From now on it is this crane, which adds to its messages."""
        self._pid, self._messages = pid, messages

    def amount(self) -> Amount:
        """The bytes that have arrived, never fewer than before, of those that must go.

        Where a system does not show it, a blob counts when crane is through with it.
        """
        messages = bytes(self._messages)
        pushed = self._size(PUSHED, messages)
        total = sum(self.sizes.values()) - self._size(_THERE, messages)
        if _ALL_THERE in messages:
            total = pushed
        seen = max(pushed, self._sent(), self._arrived)
        self._arrived = min(seen, total)
        return Amount(bytes=self._arrived, total_bytes=total)

    def _size(self, kind: re.Pattern[bytes], messages: bytes) -> int:
        digests = {Digest(digest.decode("ascii")) for digest in kind.findall(messages)}
        return sum(self.sizes.get(digest, 0) for digest in digests)

    def _sent(self) -> int:
        try:
            waiting = proc.queues(self._pid).values()
            return proc.passed(self._pid).written - sum(int(queue[:8], 16) for queue in waiting)
        except OSError:
            return 0
