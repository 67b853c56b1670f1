"""A TCP proxy that is a slow line to a registry: it delays, paces and counts bytes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

ROUND_TRIP = 0.05  # seconds
RATE = 50e6 / 8  # bytes per second, each way
CHUNK = 16384  # bytes that travel together
LATE = 0.01  # seconds that this process may oversleep; the line is not idle meanwhile

Piece = tuple[float, bytes]
"""The time of arrival (of the loop's clock), and the bytes; no bytes at the end."""


@dataclass
class Way:
    """One direction of the line. All connections share it."""

    delay: float  # seconds
    rate: float  # bytes per second
    carried: int = 0  # bytes
    free: float = 0.0  # the loop's time at which the last byte has been put on the line

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes until one end closes, and then close the other one."""
        under_way: asyncio.Queue[Piece] = asyncio.Queue(64)
        await asyncio.gather(self._put(reader, under_way), self._deliver(under_way, writer))

    async def _put(self, reader: asyncio.StreamReader, under_way: asyncio.Queue[Piece]) -> None:
        loop = asyncio.get_running_loop()
        chunk = b"begin"
        while chunk:
            try:
                chunk = await reader.read(CHUNK)
            except OSError:  # it was cut off
                chunk = b""
            self.free = max(self.free, loop.time() - LATE) + len(chunk) / self.rate
            await under_way.put((self.free + self.delay, chunk))
            await _sleep_until(self.free)

    async def _deliver(self, under_way: asyncio.Queue[Piece], writer: asyncio.StreamWriter) -> None:
        gone = False
        while (piece := await under_way.get())[1]:
            await _sleep_until(piece[0])
            if gone:
                continue
            try:
                writer.write(piece[1])
                await writer.drain()
                self.carried += len(piece[1])
            except OSError:
                gone = True
        await _sleep_until(piece[0])
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _sleep_until(time: float) -> None:
    if (left := time - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(left)


@dataclass
class Line:
    """A line to a registry. Between connections, its counts may be read and reset."""

    registry: str  # where it leads
    round_trip: float
    rate: float
    host: str = ""  # where it begins
    up: Way = field(init=False)
    down: Way = field(init=False)

    def __post_init__(self) -> None:
        self.up = Way(self.round_trip / 2, self.rate)
        self.down = Way(self.round_trip / 2, self.rate)

    def reset(self) -> None:
        self.up.carried = self.down.carried = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address, _, port = self.registry.partition(":")
        with contextlib.suppress(OSError, asyncio.CancelledError):  # it is over
            far_reader, far_writer = await asyncio.open_connection(address, int(port))
            await asyncio.sleep(self.round_trip)  # what opening it takes
            try:
                await asyncio.gather(
                    self.up.carry(reader, far_writer), self.down.carry(far_reader, writer)
                )
            finally:
                far_writer.close()
        writer.close()


@contextlib.contextmanager
def line(registry: str, round_trip: float = 0.0, rate: float = math.inf) -> Iterator[Line]:
    """Open a line to the registry until the block ends. Without delays it only counts.

    `round_trip` is in seconds, `rate` in bytes per second, each way.
    """
    made = Line(registry, round_trip, rate)
    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    ready = threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(made.connection, "127.0.0.1", 0)
        made.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await over.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


def slow_line(registry: str) -> contextlib.AbstractContextManager[Line]:
    return line(registry, ROUND_TRIP, RATE)
