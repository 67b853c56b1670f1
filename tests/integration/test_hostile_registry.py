"""A registry says what it likes when it refuses: a person sees a short text of plain letters."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.proxy import ALWAYS, Exchange, Fault, Response, Rule, serve_proxy
from support.services import PASSWORD, USER, Docker, Registry
from support.trees import File, Tree

TREE: Tree = {"file": File(b"content\n")}
CODED = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

Text = Callable[[Exchange], str]


def says(text: Text) -> Fault:
    def answer(exchange: Exchange) -> None:
        exchange.rfile.read(exchange.length)
        body = text(exchange).encode("utf-8", "surrogatepass")
        exchange.answer(Response(418, {"Content-Type": "application/json"}, body))

    return answer


def error(message: Text, code: str = "UNKNOWN") -> Text:
    return lambda exchange: json.dumps({"errors": [{"code": code, "message": message(exchange)}]})


def echoed(exchange: Exchange) -> str:
    return f"Authorization: {exchange.headers.get('Authorization')}"


def all_headers(exchange: Exchange) -> str:
    return json.dumps(dict(exchange.headers.items()))


TEXTS: dict[str, Text] = {
    "escapes": error(lambda _: "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08 nothing happened"),
    "escapes, raw": lambda _: "\x1b[2J\x1b[31mPushed\r",
    "turned round": error(lambda _: "\u202egpj.exe\u2066\u200b\ufeff"),
    "lines": error(lambda _: "\nERROR: your disk is full\n\n" * 50),
    "a page": lambda _: "<html><head>" + "<script>x</script>\n" * 500 + "</html>",
    "1 MB": error(lambda _: "x" * 1_000_000),
    "1 MB of nothing": error(lambda _: "?&:" * 300_000),
    "20 MB, raw": lambda _: "y" * 20_000_000,
    "a header echoed": error(echoed),
    "a header echoed, raw": echoed,
    "all headers echoed": error(all_headers),
    "all headers echoed, raw": all_headers,
    "docker's own file": error(lambda _: json.dumps({"auths": {"x": {"auth": CODED}}})),
    "a URL with a password": error(lambda _: f"see https://{USER}:{PASSWORD}@host.io/?sig={CODED}"),
    "a cause that is none": error(lambda _: "x509: " + "\x1b[2J" * 9000),
    "another registry": error(lambda _: "https://evil.example/v2/"),
}
UPLOADS = ("escapes", "20 MB, raw", "all headers echoed")  # crane tries each again, for 3 s


@pytest.mark.parametrize("name", TEXTS)
def test_an_answer_to_a_read_becomes_a_short_printable_error(
    docker: Docker, registry: Registry, source: Path, name: str
) -> None:
    hold_to_a_message(docker, registry, source, Rule("GET", r"/manifests/v1$", says(TEXTS[name])))


@pytest.mark.parametrize("name", UPLOADS)
def test_an_answer_to_an_upload_becomes_a_short_printable_error(
    docker: Docker, registry: Registry, source: Path, name: str
) -> None:
    hold_to_a_message(docker, registry, source, Rule("POST", "/uploads/", says(TEXTS[name])))


def hold_to_a_message(docker: Docker, registry: Registry, source: Path, rule: Rule) -> None:
    rule.last = ALWAYS
    repository = registry.repository().partition("/")[2]
    for debug in (False, True):
        with serve_proxy(registry.host, rule) as proxy:
            docker.log_in(proxy.host)
            push = ["kontext", "push", "-t", f"{proxy.host}/{repository}:v1", str(source)]
            pushed = docker(*(["-D"] if debug else []), *push, timeout=60)
        assert rule.struck
        assert (pushed.code, pushed.stdout) == (1, "")
        assert "bug in Kontext" not in pushed.stderr
        assert all(line.isprintable() for line in pushed.stderr.split("\n"))
        assert "login evil.example" not in pushed.stderr
        for secret in (PASSWORD, CODED):
            assert secret not in pushed.stderr
        assert "\nERROR: " in pushed.stderr
        assert len(pushed.stderr) < (2_000_000 if debug else 2000)  # escaped: up to six for one
        assert proxy.host in pushed.stderr
