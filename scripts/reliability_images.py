"""Trials of scripts/reliability: a true image is mutated, and each command reads it."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

from reliability_record import Record, during, expect
from reliability_stage import Stage
from support.machine import Machine
from support.mutations import Mutated, TrueImage, mutate
from support.proxy import ALWAYS, Exchange, Response, Rule, passed, serve_proxy
from support.random_edits import edit_at_random
from support.registry_servers import Server
from support.services import PASSWORD, Result
from support.trees import File, Link, Tree, on_disk, plant

from kontext_plugin.image.oci import digest_of

SECONDS = 90
"""That a command may take, on a machine where other things run."""

BYTES = 1280 * 1024 * 1024
"""Of memory that a process may take (docs/format.md, "Trust")."""

MESSAGES = 20_000
"""Characters on standard error, at most."""

MINE: Tree = {"keep/mine.txt": File(b"mine"), "link": Link("../outside"), "a": File(b"also mine")}
"""What a person has in the directory that an image is pulled into."""

OUTSIDE: Tree = {"file": File(b"outside")}


@dataclass
class Shown:
    """Shows the mutated image in the place of the true one, until a push writes the tag."""

    mutated: Mutated
    media_type: str

    def serve(self, exchange: Exchange) -> None:
        reference = exchange.path.rpartition("/")[2]
        is_blob = "/blobs/" in exchange.path
        known = self.mutated.blobs if is_blob else self.mutated.documents
        content = known.get(reference)  # type: ignore[call-overload]
        if reference == "v1":
            content = self.mutated.top
        if content is None or exchange.command == "PUT":
            passed(exchange)
            return
        headers = {
            "Content-Type": "application/octet-stream" if is_blob else self.media_type,
            "Content-Length": str(len(content)),
            "Docker-Content-Digest": digest_of(content) if reference == "v1" else reference,
        }
        body = b"" if exchange.command == "HEAD" else content
        exchange.answer(Response(200, headers, body))


def images(stage: Stage, record: Record, chance: random.Random) -> None:
    author = stage.machine()
    push_some(author, chance)
    top, index, true = fetched(stage.server, author.repository)
    mutated = mutate(true, index, chance)
    for blob in mutated.blobs.values():
        stage.server.put_blob(author.repository, blob)
    shown = Shown(mutated, json.loads(top)["mediaType"])
    rule = Rule("GET|HEAD|PUT", r"/manifests/|/blobs/sha256:", shown.serve, last=ALWAYS)
    record.counts["images"] += 1
    record.counts[f"mutated: {mutated.what}"] += 1
    with serve_proxy(stage.server.host, rule) as way, during(f"mutated: {mutated.what}"):
        reader = stage.machine(way.host)
        reader.repository = author.repository
        read(reader, record, chance)


def push_some(author: Machine, chance: random.Random) -> None:
    """Push a tree one to four times: as one image or an index, its manifest whole or in parts."""
    plant(author.source, {"ballast": File(chance.randbytes(50_000))})
    if chance.random() < 0.3:
        plant(author.source, {f"crowd/{n}": File(b"%d" % n) for n in range(600)})
    options = chance.choice(((), (), ("--platform", "all"), ("--single-layer",)))
    for _ in range(chance.randint(1, 4)):
        edit_at_random(author.source, chance)
        pushed = author.push(*options)
        assert pushed.code == 0, pushed.stderr


def fetched(server: Server, repository: str) -> tuple[bytes, bytes, list[TrueImage]]:
    """Return the document under the tag, the index if it is one, and the images."""

    def get(kind: str, reference: str) -> bytes:
        answer = server.ask("GET", f"/v2/{repository}/{kind}/{reference}")
        assert answer.status == 200, answer
        return answer.body

    def image(manifest: bytes) -> TrueImage:
        document = json.loads(manifest)
        layers = tuple(get("blobs", layer["digest"]) for layer in document["layers"])
        return TrueImage(manifest, get("blobs", document["config"]["digest"]), layers)

    top = get("manifests", "v1")
    children = json.loads(top).get("manifests")
    if children is None:
        return top, b"", [image(top)]
    return top, top, [image(get("manifests", child["digest"])) for child in children]


def read(reader: Machine, record: Record, chance: random.Random) -> None:
    """Give the image to each command."""
    around = reader.folder / "around"
    plant(around, {f"outside/{path}": node for path, node in OUTSIDE.items()})
    for target in ("target", "mirror"):
        plant(around, {f"{target}/{path}": node for path, node in MINE.items()})
    plant(reader.source, {"mine": File(b"mine"), "ballast": File(chance.randbytes(50_000))})
    edit_at_random(reader.source, chance)
    before = reader.tree()

    def run(name: str, *arguments: str | Path) -> Result:
        started = time.monotonic()
        result, size = reader.kontext_measured(SECONDS, name, *arguments)
        record.peak(f"seconds of {name}", time.monotonic() - started)
        record.peak(f"bytes of {name}", size)
        record.counts[f"{name}: exit code {result.code}"] += 1
        with during(f"{name}: {result.stderr[-3000:]}"):
            assert_calm(result, size)
            assert sorted(path.name for path in around.iterdir()) == ["mirror", "outside", "target"]
            expect("the directory beside the target", OUTSIDE, on_disk(around / "outside"))
            expect("the pushed directory", before, reader.tree())
            kept = (around / "target/keep/mine.txt").read_bytes()
            assert kept == b"mine", "a file of the user's was changed"
            reader.assert_clean()
        return result

    run("inspect", reader.tag)
    run("log", reader.tag)
    listing = run("ls", "-R", "--format", "json", reader.tag)
    run("ls", reader.tag)
    run("verify", reader.tag)
    run("diff", "-t", reader.tag, reader.source)
    run("pull", reader.tag, around / "target")
    pulled = run("pull", "--mirror", reader.tag, around / "mirror")
    if (pulled.code, listing.code) == (0, 0):
        listed = {entry["path"] for entry in json.loads(listing.stdout)}
        different = sorted(listed ^ on_disk(around / "mirror").keys())
        assert not different, f"ls lists other paths than pull writes: {different[:5]}"
    checks = chance.random() < 0.5
    pushed = run("push", "-t", reader.tag, *(["--check-parent"] if checks else []), reader.source)
    # A push without the option trusts the layers of its parent (docs/security.md).
    if pushed.code == 0 and (checks or "Starting fresh" in pushed.stderr):
        record.counts["images pushed upon and compared"] += 1
        expect("crane export after the push", before, reader.published())


def assert_calm(result: Result, size: int) -> None:
    """Assert a documented exit code, bounded memory, and messages without anything raw."""
    assert result.code in (0, 1), f"exit code {result.code}"
    assert size < BYTES, f"{size} bytes of memory"
    for never in ("Traceback", "bug in Kontext", PASSWORD):
        assert never not in result.stderr
    assert len(result.stderr) < MESSAGES
    result.assert_printable()
