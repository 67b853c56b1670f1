"""Images made to do harm: a push starts fresh and says why, or fails with a message, and soon.

The bounds are those of docs/format.md, "Trust": what reading the worst of images may take.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.measured import run_measured
from support.proxy import ALWAYS, Exchange, Response, Rule, serve_proxy
from support.services import PASSWORD, USER, Docker, Registry, Result
from support.trees import File, Tree, in_archive

from kontext_plugin import crane as kontext_crane
from kontext_plugin.crane_driver.process import CraneRunner
from kontext_plugin.errors import KontextError
from kontext_plugin.image.reference import parse_image_reference
from kontext_plugin.registry.fetch import fetch

Crane = Callable[..., bytes]
TREE: Tree = {"file": File(b"content\n")}

MEMORY = 1280 * 1024 * 1024
"""Bytes that any process of a push may take: 4 Mi values, the most that are read, take 1 GiB."""

TIME = 90
"""Seconds: half a minute where nothing else runs."""

MANIFEST = "var/lib/kontext/manifest.json"
PARTS = "var/lib/kontext/parts/"
ZERO = "sha256:" + "0" * 64
OCI = "application/vnd.oci.image.manifest.v1+json"
STATE: dict[str, Any] = {
    "version": 3, "files": {}, "sizes": [], "executable": [], "links": {}, "generation": 0,
    "content": 0, "layers": [], "ancestors": [], "replacedDirectories": [],
}  # fmt: skip
OLD: dict[str, Any] = {
    "version": 2, "base": ZERO, "extractor": ZERO, "platform": "linux/amd64", "labels": {},
}  # fmt: skip
"""What version 2 has in addition."""


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def state(**changes: Any) -> bytes:
    return compact(STATE | changes)


def state_with(key: str, text: bytes, **changes: Any) -> bytes:
    """A manifest with a value that is made as text, since it is large."""
    return state(**changes, **{key: "@"}).replace(b'"@"', text)


def entry(
    name: str, content: bytes, kind: bytes = tarfile.REGTYPE, size: int | None = None
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def layer(*entries: bytes) -> bytes:
    return gzip.compress(b"".join(entries) + bytes(1024), 1, mtime=0)


def gzip_header(flags: int) -> bytes:
    return b"\x1f\x8b\x08%c\0\0\0\0\0\xff" % flags


def holding(document: bytes, *entries: bytes) -> bytes:
    return layer(entry(MANIFEST, document), *entries)


def part(content: bytes, name: str = "") -> bytes:
    return entry(PARTS + (name or digest_of(content)[7:]) + ".json", content)


PIECE = compact({"executable": [], "files": {"a": ""}, "links": {}, "sizes": []})
HEX = digest_of(PIECE)[7:]
OLD_REST = {key: value for key, value in OLD.items() if key != "labels"}
MILLION = b"{" + b",".join(b'"%x":""' % number for number in range(1_000_000)) + b"}"
SURROGATE = state_with("links", rb'{"link":"\udfff"}')


def ancestors(count: int, paths: int) -> bytes:
    """Each with an undo of as many paths, and all of them the layers for it."""
    absent = [f"{number:x}" for number in range(paths)]
    undo = {"files": {}, "executable": [], "links": {}, "absent": absent}
    some = [
        {"image": ZERO, "layers": number + 1, "generation": 0, "content": 0, "undo": undo}
        | {"replacedDirectories": []}
        for number in range(count)
    ]
    return state(ancestors=some, layers=[ZERO] * count)


LAYERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a million entries": (lambda: holding(state_with("files", MILLION)), ""),
    "a million labels": (lambda: holding(state_with("labels", MILLION, **OLD_REST)), "labels"),
    "a million parts": (lambda: holding(state(parts=[HEX] * 1_000_000, partLayers=[])), "parts"),
    "lists, 120 MB": (
        lambda: holding(state_with("x", b"[" + b"[]," * 40_000_000 + b"0]")),
        "large",
    ),
    "10^5 brackets": (lambda: holding(state_with("x", b"[" * 10**5 + b"]" * 10**5)), "not JSON"),
    "10,000 digits": (lambda: holding(state_with("content", b"9" * 10**4)), "not JSON"),
    "10^10000": (lambda: holding(state_with("content", b"1e10000")), "content"),
    "2^63": (lambda: holding(state(content=2**63)), "content"),
    "NaN": (lambda: holding(state_with("content", b"NaN")), "not JSON"),
    "Infinity": (lambda: holding(state_with("sizes", b"[Infinity]")), "not JSON"),
    "keys twice": (lambda: holding(state()[:-1] + b',"files":{"../x":""}}'), "'../x'"),
    "lone surrogates": (lambda: holding(SURROGATE), "not UTF-8"),
    "lone surrogates in a path": (
        lambda: holding(state_with("files", rb'{"\ud800":""}')),
        r"'\ud800'",
    ),
    "byte order mark": (lambda: holding(b"\xef\xbb\xbf" + state()), "not JSON"),
    "UTF-16": (lambda: holding(state().decode().encode("utf-16")), "not JSON"),
    "no UTF-8": (lambda: holding(state()[:-1] + b',"\xff":1}'), "not JSON"),
    "escapes in a name": (lambda: holding(state(files={"\x1b[2J/..": ""})), r"\x1b[2J/.."),
    "a name of 1 MB": (lambda: holding(state(files={"/" + "n" * 1_000_000: ""})), "nnn"),
    "NUL in a name": (lambda: holding(state(files={"a\0b": ""})), r"'a\x00b'"),
    "a line end in a label": (
        lambda: holding(state(**OLD | {"labels": {"\nERROR: x": 1}})),
        "labels",
    ),
    "8 GiB in a header": (lambda: layer(entry(MANIFEST, b"", size=8**11 - 1)), "too large"),
    "2^70 in a header": (lambda: layer(entry(MANIFEST, b"", size=2**70)), "too large"),
    "less than nothing": (lambda: layer(entry(MANIFEST, b"", size=-1000)), "too large"),
    "64 MiB of zeros": (lambda: holding(bytes(63 << 20)), "not JSON"),
    "more than 64 MiB": (lambda: holding(bytes((64 << 20) + 1)), "large"),
    "10,000 parts of a byte": (
        lambda: holding(
            state(parts=["f" * 64], partLayers=[0]),
            *(part(b"x", f"{number:064x}") for number in range(10_000)),
        ),
        "end of file",
    ),
    "a pax record of 1 GiB": (
        lambda: layer(entry("x", b"", tarfile.XHDTYPE, 1 << 30)),
        "no manifest",
    ),
    "a long name of 1 GiB": (
        lambda: layer(entry("x", b"", tarfile.GNUTYPE_LONGNAME, 1 << 30)),
        "has no manifest of Kontext's",
    ),
    "empty members": (lambda: gzip.compress(b"") * 1_000_000, "damaged"),
    "members": (
        lambda: b"".join(gzip.compress(bytes([byte])) for byte in entry(MANIFEST, b"[]")),
        "no JSON object",
    ),
    "a name of 30 MB in gzip": (
        lambda: b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"n" * 30_000_000,
        "dam",
    ),
    "empty blocks": (
        lambda: b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\0\0\0\xff\xff" * 5_000_000,
        "damaged",
    ),
    "not compressed": (lambda: entry(MANIFEST, state()) + bytes(1024), "not gzip"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd\x04\x00" + bytes(200), "not gzip"),
    "a part twice": (
        lambda: holding(state(parts=[HEX] * 2, partLayers=[0, 0]), part(PIECE), part(PIECE)),
        "lists a part twice",
    ),
    "a part in no layer": (
        lambda: holding(state(parts=[HEX], partLayers=[9]), part(PIECE)),
        "in a layer that it does not have",
    ),
    "a part below all layers": (
        lambda: holding(state(layers=[ZERO] * 5, parts=[HEX], partLayers=[0])),
        "in a layer that it does not have",
    ),
    "a part of version 2 in no layer": (
        lambda: holding(state(**OLD, parts=[HEX], partLayers=[9]), part(PIECE)),
        "in a layer that it does not have",
    ),
    "a part in layer 2^63": (
        lambda: holding(state(parts=[HEX], partLayers=[2**63 - 1])),
        "in a layer that it does not have",
    ),
    "a part that lies": (
        lambda: holding(state(parts=["f" * 64], partLayers=[0]), part(PIECE, "f" * 64)),
        "a part of its manifest is damaged",
    ),
    "a part cut elsewhere": (
        lambda: holding(state(parts=[HEX], partLayers=[0]), part(PIECE)),
        "not those of its tree",
    ),
    "an ancestor of itself": (lambda: holding(ancestors(1, 0)), ""),
    "ancestors in a circle": (
        lambda: holding(state(ancestors=json.loads(ancestors(2, 0))["ancestors"] * 2)),
        "an ancestor that does not have its layers",
    ),
    "125 ancestors": (lambda: holding(ancestors(125, 5000)), ""),
    "126 ancestors": (lambda: holding(ancestors(126, 0)), "ancestors"),
}


def put(registry: Registry, repository: str, path: str, content: bytes, kind: str) -> int:
    """One request that crane would not make; its status."""
    host, _, name = repository.partition("/")
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {secret}", "Content-Type": kind}
    connection = http.client.HTTPConnection(host)
    if path.startswith("blobs"):
        connection.request("POST", f"/v2/{name}/blobs/uploads/", headers=headers)
        answer = connection.getresponse()
        answer.read()
        place = (answer.getheader("Location") or "").partition(host)[2]
        target = f"{place}{'&' if '?' in place else '?'}digest={digest_of(content)}"
    else:
        target = f"/v2/{name}/{path}"
    connection.request("PUT", target, content, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def put_image(registry: Registry, tag: str, top: bytes, **changes: Any) -> int:
    """An image of one layer under the tag, its other keys as given."""
    repository, _, version = tag.rpartition(":")
    config = changes.pop("configuration", compact({"os": "linux", "architecture": "amd64"}))
    for blob in (top, config):
        assert put(registry, repository, "blobs", blob, "application/octet-stream") == 201
    image = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(top, "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    content = compact(image | changes)
    return put(
        registry, repository, f"manifests/{version}", content, str(changes.get("mediaType", OCI))
    )


def described(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}


def push(docker: Docker, tag: str, source: Path, *options: str) -> Result:
    """A push that takes no more memory and time than it may."""
    command = [str(docker.plugin), "kontext", "push", "-t", tag, *options, str(source)]
    environment = os.environ | {"DOCKER_CONFIG": str(docker.config)}
    done, size = run_measured(command, environment, TIME)
    assert size < MEMORY
    return done


def assert_calm(done: Result) -> None:
    """What a person sees of it: short, nothing raw, no fault of ours."""
    for never in ("Traceback", "bug in Kontext", PASSWORD):
        assert never not in done.stderr
    assert all(line.isprintable() and len(line) < 700 for line in done.stderr.splitlines())
    assert len(done.stderr.splitlines()) < 10


def assert_fresh(done: Result, why: str) -> None:
    assert_calm(done)
    assert done.image
    assert re.search(f"Starting fresh: .*{re.escape(why)}", done.stderr), done.stderr


@pytest.mark.parametrize(("make", "why"), LAYERS.values(), ids=LAYERS)
def test_a_hostile_layer_starts_fresh(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], bytes],
    why: str,
    crane_path: str,
) -> None:
    """Under the tag of a push, and for whoever reads an image."""
    tag = registry.repository() + ":v1"
    assert put_image(registry, tag, make()) == 201
    monkeypatch.setenv("DOCKER_CONFIG", str(docker.config))
    if why and len(make()) < 1_000_000:
        runner = CraneRunner(crane_path)
        with kontext_crane.Crane(runner) as reading, ThreadPoolExecutor(2) as threads:
            with pytest.raises(KontextError, match=re.escape(why)) as raised:
                fetch(reading, threads, parse_image_reference(tag))
            assert len(raised.value.message) < 500
    assert_fresh(push(docker, tag, source), why)
    assert in_archive(io.BytesIO(crane("export", tag, "-"))) == TREE


LAYER = described(layer(entry("f", b"x")), "application/vnd.oci.image.layer.v1.tar+gzip")
FOREIGN = LAYER | {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"
INSIDE = {"mediaType": INDEX, "digest": ZERO, "size": 9}
AMD64 = {"os": "linux", "architecture": "amd64"}

IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "10,000 layers": ({"layers": [LAYER] * 10_000}, "layers: "),
    "layers of not an integer": ({"layers": [LAYER | {"size": 32.0}]}, "layers/0/size"),
    "a media type that is a list": ({"mediaType": [OCI]}, "mediaType"),
    "an index": ({"mediaType": INDEX, "manifests": []}, "an index without images"),
    "an index without a list": ({"mediaType": INDEX}, "manifests"),
    "an index of itself": ({"mediaType": INDEX, "manifests": [INSIDE]}, "an index without images"),
    "a list of docker's": (
        {"mediaType": DOCKER_LIST, "manifests": [INSIDE]},
        "an index without images",
    ),
    "an index of an image that is not there": (
        {"mediaType": INDEX, "manifests": [INSIDE | {"mediaType": OCI, "platform": AMD64}]},
        "a part of the image is gone",
    ),
    "platforms that are no names": (
        {"mediaType": INDEX, "manifests": [INSIDE | {"platform": {"os": [], "architecture": 1}}]},
        "manifests/0/platform",
    ),
    "platforms of escapes": (
        {"mediaType": INDEX, "manifests": [INSIDE | {"platform": {"os": "\x1b[2J"}}]},
        "an index without images",
    ),
    "an index of 10,000": ({"mediaType": INDEX, "manifests": [INSIDE] * 10_000}, "manifests"),
    "schema 1": ({"schemaVersion": 1, "fsLayers": [], "history": []}, "schemaVersion"),
    "no layers": ({"layers": []}, "no layers"),
    "layers null": ({"layers": None}, "layers"),
    "null everywhere": ({"layers": [None], "config": None, "annotations": None}, "config"),
    "an artifact": (
        {"artifactType": "a/b", "layers": [LAYER | {"mediaType": "text/plain"}]},
        "its layer has the media type 'text/plain'",
    ),
    "a foreign layer": (
        {"layers": [FOREIGN | {"urls": ["http://127.0.0.1:1/\x1b[2J"]}]},
        "its layer has the media type 'application/vnd.oci.image.layer.nondistributable",
    ),
    "300,000 annotations": (
        {"annotations": {f"{number:x}": "" for number in range(300_000)}},
        "has no manifest of Kontext's",
    ),
    "an annotation of escapes": (
        {"annotations": {"dev.kontext.manifest": "\x1b[2J"}},
        "has no manifest of Kontext's",
    ),
    "a manifest of 9 MB": ({"x": "x" * 9_000_000}, "larger than"),
}


@pytest.fixture
def lying(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Shows any manifest under a tag, also one that no real registry would have taken."""
    shown: list[bytes] = []

    def show(exchange: Exchange) -> None:
        headers = {"Content-Type": OCI, "Docker-Content-Digest": digest_of(shown[0])}
        headers["Content-Length"] = str(len(shown[0]))
        exchange.answer(Response(200, headers, shown[0] if exchange.command == "GET" else b""))

    with serve_proxy(
        registry.host, Rule("GET|HEAD", r"/manifests/v1$", show, last=ALWAYS)
    ) as proxy:
        yield proxy, shown


@pytest.mark.parametrize(("changes", "why"), IMAGES.values(), ids=IMAGES)
def test_a_hostile_image_starts_fresh_or_is_an_error(
    docker: Docker,
    registry: Registry,
    source: Path,
    lying: Any,
    changes: dict[str, Any],
    why: str,
) -> None:
    proxy, shown = lying
    top = layer(entry("f", b"x"))
    repository = registry.repository()
    put_image(registry, f"{repository}:v0", top)
    config = compact({"os": "linux", "architecture": "amd64"})
    image = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [LAYER],
    }
    shown.append(compact(image | changes))
    docker.log_in(proxy.host)
    tag = f"{proxy.host}/{repository.partition('/')[2]}:v1"
    pushed = push(docker, tag, source)
    assert_calm(pushed)
    assert why in pushed.stderr
    if pushed.code:
        assert "ERROR: " in pushed.stderr
    else:
        assert "Starting fresh: " in pushed.stderr


def config(**changes: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [digest_of(gzip.decompress(layer(entry("f", b"x"))))]}
    return compact({"os": "linux", "architecture": "amd64", "rootfs": rootfs} | changes)


CONFIGS: dict[str, tuple[bytes, str]] = {
    "4 MB": (config(config={"Labels": {"x": "y" * 4_000_000}}), ""),
    "environment of numbers": (config(config={"Env": [1, None, {}]}), "ERROR: "),
    "labels a list": (config(config={"Labels": [1]}), "cannot be a base: config/Labels"),
    "labels of lists": (config(config={"Labels": {"a": []}}), "ERROR: "),
    "null everywhere": (config(os=None, architecture=None, config=None), "cannot be a base"),
    "config null": (config(config=None), ""),
    "config a list": (config(config=[]), "cannot be a base: config: "),
    "an operating system of 1 MB": (config(os="x" * 1_000_000), "cannot be a base: os: "),
    "escapes": (config(os="\x1b[2J"), r"is for \x1b[2J/amd64"),
    "no JSON": (b"\xff\xfe", "ERROR: "),
    "deep": (config()[:-1] + b',"x":' + b"[" * 9000 + b"]" * 9000 + b"}", "not JSON"),
}


@pytest.mark.parametrize(("configuration", "why"), CONFIGS.values(), ids=CONFIGS)
def test_a_hostile_base_is_an_error(
    docker: Docker, registry: Registry, source: Path, configuration: bytes, why: str
) -> None:
    """Also an honest base may be odd: then it is built upon."""
    repository = registry.repository()
    top = layer(entry("f", b"x"))
    assert put_image(registry, f"{repository}:base", top, configuration=configuration) == 201
    for options in (["--platform", "linux/amd64"], []):
        pushed = push(docker, f"{repository}:v1", source, "--base", f"{repository}:base", *options)
        assert_calm(pushed)
        assert why in pushed.stderr
        assert pushed.code == bool(why)
