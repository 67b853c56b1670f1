"""A proxy between crane and a registry, which breaks the requests that its rules name."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

Fault = Callable[["Exchange"], None]


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Rule:
    """Breaks the requests `first` to `last` of those that it matches, counted from 1."""

    method: str
    path: str
    fault: Fault
    first: int = 1
    last: int = 1
    seen: int = 0
    struck: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if not (re.fullmatch(self.method, method) and re.search(self.path, path)):
            return False
        self.seen += 1
        self.struck += (strikes := self.first <= self.seen <= self.last)
        return strikes


ALWAYS = 1_000_000

_FRAMING = ("content-length", "transfer-encoding")
"""The headers of a request that http.client writes itself."""


@dataclass
class Proxy:
    registry: str  # where it leads
    host: str
    rules: list[Rule] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault:
        with self.lock:
            self.asked.append(f"{method} {path}")
            struck = [rule.fault for rule in self.rules if rule.strikes(method, path)]
        return struck[0] if struck else passed


class Exchange(BaseHTTPRequestHandler):
    """A connection from crane. A fault gets it for each request."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        # crane tries TLS first. A Go server that has none says so in just this way.
        with contextlib.suppress(OSError):
            if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
                self.connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            else:
                super().handle()

    def _serve(self) -> None:
        self.proxy.fault(self.command, self.path)(self)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = _serve

    @property
    def length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def forward(
        self, body: bytes | None = None, *, method: str = "", path: str = "", accept: str = ""
    ) -> Response:
        """Return the registry's answer to this request, or to one like it.

        Redirections lead to the proxy.
        """
        if body is None:
            body = self.rfile.read(self.length)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in _FRAMING
        }
        if accept:
            headers["Accept"] = accept
        upstream = http.client.HTTPConnection(self.proxy.registry)
        with contextlib.closing(upstream):
            upstream.request(method or self.command, path or self.path, body, headers)
            response = upstream.getresponse()
            content = response.read()
        kept = {
            name: value
            for name, value in response.getheaders()
            if name.lower() != "transfer-encoding"  # the body is in one piece now
        }
        return Response(response.status, kept, content)

    def start(self, response: Response) -> None:
        """Send the status and the headers."""
        self.send_response_only(response.status)
        if self.command != "HEAD":
            response.headers.setdefault("Content-Length", str(len(response.body)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, response: Response) -> None:
        self.start(response)
        self.wfile.write(response.body)

    def hold(self) -> None:
        """Send and read nothing more until the test ends."""
        self.proxy.over.wait()
        self.close_connection = True

    def cut(self) -> None:
        """Reset the connection, as if the other machine had crashed."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


# Faults


def passed(exchange: Exchange) -> None:
    try:
        response = exchange.forward()
    except (OSError, http.client.HTTPException):  # the registry is gone, and so are we
        exchange.cut()
    else:
        exchange.answer(response)


def cut(exchange: Exchange) -> None:
    exchange.cut()


def closed(exchange: Exchange) -> None:
    """Close the connection without an answer."""
    exchange.close_connection = True


def cut_in_the_body(exchange: Exchange) -> None:
    exchange.rfile.read(exchange.length // 2)
    exchange.cut()


def lost_answer(exchange: Exchange) -> None:
    """Let the registry answer, and cut the connection before the answer."""
    exchange.forward()
    exchange.cut()


def status(code: int) -> Fault:
    def answer(exchange: Exchange) -> None:
        exchange.rfile.read(exchange.length)
        exchange.answer(Response(code, {}, b""))

    return answer


def garbage(exchange: Exchange) -> None:
    exchange.rfile.read(exchange.length)
    exchange.wfile.write(b"\x00\xff\x1b[31m no HTTP at all\r\n\r\n")
    exchange.close_connection = True


def silent(exchange: Exchange) -> None:
    exchange.hold()


def silent_after_all(exchange: Exchange) -> None:
    """Let the registry answer, and send nothing more."""
    exchange.forward()
    exchange.hold()


def stops_reading(exchange: Exchange) -> None:
    exchange.rfile.read(exchange.length // 2)
    exchange.hold()


def stops_sending(exchange: Exchange) -> None:
    response = exchange.forward()
    exchange.start(response)
    exchange.wfile.write(response.body[: len(response.body) // 2])
    exchange.hold()


def truncated(exchange: Exchange) -> None:
    """Send half of the body, with the length of all of it."""
    response = exchange.forward()
    exchange.start(response)
    exchange.wfile.write(response.body[: len(response.body) // 2])
    exchange.close_connection = True


def shortened(exchange: Exchange) -> None:
    """Send half of the body, with the length of that half."""
    response = exchange.forward()
    response.body = response.body[: len(response.body) // 2]
    response.headers["Content-Length"] = str(len(response.body))
    exchange.answer(response)


def corrupted(at: float) -> Fault:
    """Change one byte of the body; `at` is its place, from 0 to 1."""

    def answer(exchange: Exchange) -> None:
        response = exchange.forward()
        body = bytearray(response.body)
        body[int(at * len(body))] ^= 1
        response.body = bytes(body)
        exchange.answer(response)

    return answer


def trickles(seconds: float) -> Fault:
    """Read the request's body, and send the answer's, slowly.

    A small body is passed on: it is with us as soon as it is sent, and then no more is to be seen.
    """

    def slowly(exchange: Exchange) -> None:
        if 0 < exchange.length < 100_000:
            passed(exchange)
            return
        over, steps = exchange.proxy.over, int(seconds * 10)
        body = b""
        for step in range(1, steps + 1 if exchange.length else 1):
            body += exchange.rfile.read(exchange.length * step // steps - len(body))
            over.wait(0.1)
        response = exchange.forward(body)
        exchange.start(response)
        size = len(response.body)
        for step in range(steps if size else 0):
            exchange.wfile.write(response.body[size * step // steps : size * (step + 1) // steps])
            over.wait(0.1)

    return slowly


def after(do: Callable[[], object], then: Fault) -> Fault:
    def both(exchange: Exchange) -> None:
        do()
        then(exchange)

    return both


@contextlib.contextmanager
def serve_proxy(registry: str, *rules: Rule) -> Iterator[Proxy]:
    """Run a proxy on a free port until the block ends."""

    class Connection(Exchange):
        pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

        def server_bind(self) -> None:
            # As on a real line: what is not read waits on the other side, in packets of some size.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
            super().server_bind()

        def handle_error(self, *_: object) -> None: ...  # crane has left

    with Server(("127.0.0.1", 0), Connection) as server:
        Connection.proxy = Proxy(registry, f"127.0.0.1:{server.server_address[1]}", [*rules])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Connection.proxy
        finally:
            Connection.proxy.over.set()
            server.shutdown()
            thread.join()
