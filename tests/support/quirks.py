"""A proxy between crane and a registry that behaves as some registries in the field do."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from support.proxy import ALWAYS, Exchange, Proxy, Response, Rule, serve_proxy
from support.registry_servers import MANIFEST_TYPES

IMMUTABLE = "the tag already exists and is immutable"
DENIED = "cannot overwrite tag: it is immutable"

_MANIFEST = re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<reference>[^/?]+)")
_DIGEST_HEADER = "docker-content-digest"


@dataclass(frozen=True)
class Quirks:
    """What a registry does that others do not. The default: nothing."""

    lag: float = 0.0
    """Seconds that a manifest is 404 after its PUT, under its tag and its digest."""

    tag_lag: float = 0.0
    """Seconds that a tag shows its former manifest after a PUT."""

    immutable: bool = False
    """Refuse a PUT on an existing tag with 400 TAG_INVALID, also of the same manifest."""

    denied: bool = False
    """The same with 403 DENIED, and the reason in the text."""

    denied_status: int = 403
    """The status of `denied`: 403 or 409."""

    no_digest: bool = False
    """Send no Docker-Content-Digest header."""

    busy: int = 0
    """Answer so many requests with 429 and Retry-After: 3."""


NO_QUIRKS = Quirks()


@dataclass
class QuirkyRegistry:
    """A registry behind its quirks. It counts the requests that reach it."""

    quirks: Quirks
    proxy: Proxy
    clock: Callable[[], float]
    _written: dict[str, float] = field(default_factory=dict)  # path of a manifest: when it was put
    _former: dict[str, str] = field(default_factory=dict)  # path of a tag: the digest before
    _refused: int = 0  # requests, by `busy`
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return self.proxy.host

    # --- Counting ---

    def requests(self, method: str = ".*", path: str = "") -> list[str]:
        """Return the requests so far with this method and this path, as `METHOD PATH`.

        Both are regular expressions: `method` is the whole method, `path` a piece of the path.
        """
        with self.proxy.lock:
            asked = [*self.proxy.asked]
        return [
            line
            for line in asked
            if re.fullmatch(method, line.partition(" ")[0])
            and re.search(path, line.partition(" ")[2])
        ]

    def count(self, method: str = ".*", path: str = "") -> int:
        return len(self.requests(method, path))

    def reset(self) -> None:
        """Forget the requests so far."""
        with self.proxy.lock:
            self.proxy.asked.clear()

    # --- Serving ---

    def serve(self, exchange: Exchange) -> None:
        """Answer a request, as a fault of `support.proxy` does."""
        try:
            response = self._response(exchange)
        except (OSError, http.client.HTTPException):  # the registry is gone
            exchange.cut()
        else:
            exchange.answer(response)

    def _response(self, exchange: Exchange) -> Response:
        body = exchange.rfile.read(exchange.length)
        if self._is_busy():
            response = _error(429, "TOOMANYREQUESTS", "retry-after: 3s, allowed: 20/minute")
            response.headers["Retry-After"] = "3"
            return response
        path = _MANIFEST.fullmatch(exchange.path.partition("?")[0])
        if path and exchange.command == "PUT":
            response = self._put(exchange, path, body)
        elif path and exchange.command in ("GET", "HEAD"):
            response = self._read(exchange, path)
        else:
            response = exchange.forward(body)
        if self.quirks.no_digest:
            response.headers = {
                name: value
                for name, value in response.headers.items()
                if name.lower() != _DIGEST_HEADER
            }
        if exchange.command == "HEAD":
            response.body = b""
        return response

    def _is_busy(self) -> bool:
        with self._lock:
            self._refused += 1
            return self._refused <= self.quirks.busy

    def _put(self, exchange: Exchange, path: re.Match[str], body: bytes) -> Response:
        is_tag = ":" not in path["reference"]
        if is_tag and (self.quirks.immutable or self.quirks.denied or self.quirks.tag_lag):
            former = self._current(exchange)
            if former and self.quirks.denied:
                return _error(self.quirks.denied_status, "DENIED", DENIED)
            if former and self.quirks.immutable:
                return _error(400, "TAG_INVALID", IMMUTABLE)
            with self._lock:
                self._former[exchange.path] = former
        response = exchange.forward(body)
        if response.status < 300:
            now = self.clock()
            digest = hashlib.sha256(body).hexdigest()
            with self._lock:
                self._written.setdefault(f"/v2/{path['repository']}/manifests/sha256:{digest}", now)
                self._written[exchange.path] = now
        return response

    def _read(self, exchange: Exchange, path: re.Match[str]) -> Response:
        with self._lock:
            written = self._written.get(exchange.path)
            former = self._former.get(exchange.path)
        if written is not None:
            age = self.clock() - written
            if age < self.quirks.lag:
                return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            if former and age < self.quirks.tag_lag:
                return exchange.forward(b"", path=f"/v2/{path['repository']}/manifests/{former}")
        return exchange.forward(b"")

    def _current(self, exchange: Exchange) -> str:
        """Return the digest that the registry has under the tag of a PUT; "" for none."""
        kind = exchange.headers.get("Content-Type") or "*/*"
        asked = exchange.forward(b"", method="GET", accept=f"{kind}, {MANIFEST_TYPES}")
        if asked.status != 200:
            return ""
        return f"sha256:{hashlib.sha256(asked.body).hexdigest()}"


def _error(status: int, code: str, message: str) -> Response:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Response(status, {"Content-Type": "application/json"}, body)


@contextmanager
def serve_quirks(
    registry: str, quirks: Quirks = NO_QUIRKS, clock: Callable[[], float] = time.monotonic
) -> Iterator[QuirkyRegistry]:
    """Run a proxy to the registry on a free port until the block ends."""
    with serve_proxy(registry) as proxy:
        quirky = QuirkyRegistry(quirks, proxy, clock)
        proxy.rules.append(Rule(".*", "", quirky.serve, last=ALWAYS))
        yield quirky
