"""Mutate true images: what a registry sends is damaged, forged or absurd. Pure, of a seed.

A mutation changes one document or one layer of an image, in one to three places. Then the digests
above it are made to fit, so that what reads the image meets it, or are left to lie.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import random
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kontext_plugin.image.oci import Digest, digest_of

MANIFEST_ANNOTATION = "dev.kontext.manifest"
STATE = "var/lib/kontext/"
"""Where a layer has Kontext's manifest and its parts."""

HOSTILE_TEXTS = (
    "", ".", "..", "/", "../../outside/evil", "/etc/evil", "a/../../outside/evil", "link/evil",
    "..\\outside\\evil", "C:\\evil", "a\0b", "a\nD everything", "\x1b[2J\x1b[31mred", "\u202egpj",
    "\udfff", "x" * 300, "x" * 1_000_000, "/".join("d" * 2000), ".wh.a", ".wh..wh..opq",
    ".git/x", "sha256:" + "0" * 64, "sha256:" + "../" * 21, "sha512:" + "0" * 128, "sha256:",
    "linux/../amd64", "1970-01-01T00:00:00Z",
    "9999-99-99T99:99:99Z", "%s%n{0}", "-rf", "$(touch evil)",
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, 125, 126, 2**31, 2**53, 2**63, -(2**63), 10**400, 1e308, [],
    {}, [[]], {"a": None}, float("nan"), float("inf"),
)  # fmt: skip
DEEP = "@ deep @"
"""Stands for a value of 100,000 brackets, which no encoder writes."""

TAR_KINDS = (
    tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
    tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"x", b"g", b"L", b"S", b"Z",
)  # fmt: skip
BOMB = 512 * 1024 * 1024
"""Bytes of zeros, of which a layer has half a megabyte."""

MEDIA_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "text/html",
)

Entries = list[tuple[tarfile.TarInfo, bytes]]


@dataclass(frozen=True)
class TrueImage:
    """An image for one platform, as a registry has it."""

    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]  # lowest first


@dataclass(frozen=True)
class Mutated:
    """What a hostile registry shows."""

    what: str  # was mutated
    top: bytes  # the document under the tag
    documents: dict[Digest, bytes]  # image manifests below it
    blobs: dict[Digest, bytes]


def mutate(images: Sequence[TrueImage], index: bytes, chance: random.Random) -> Mutated:
    """Mutate one of the images, or the index of them. `index` is empty for one plain image."""
    kind = chance.choice([*_MUTATIONS, *(["the index"] if index else [])])
    lies = chance.random() < 0.15  # the digests stay as they were
    chosen = chance.choice(images)
    documents: dict[Digest, bytes] = {}
    blobs: dict[Digest, bytes] = {}
    for image in images:
        shown = image
        if image is chosen and kind != "the index":
            shown = _MUTATIONS[kind](image, chance, lies)
        named = image if lies else shown
        documents[digest_of(named.manifest)] = shown.manifest
        blobs |= _blobs(named, shown)
        if index:
            index = _renamed(index, image.manifest, named.manifest)
    if kind == "the index":
        index = mutate_json(index, chance)
    top = index or shown.manifest
    return Mutated(kind + (", with the old digests" if lies else ""), top, documents, blobs)


def _blobs(named: TrueImage, shown: TrueImage) -> dict[Digest, bytes]:
    """Return the blobs of one image under the digests of the other."""
    pairs = zip((named.config, *named.layers), (shown.config, *shown.layers), strict=True)
    return {digest_of(name): content for name, content in pairs}


def _renamed(document: bytes, old: bytes, new: bytes) -> bytes:
    """Let the descriptors of a document name another blob in the place of `old`."""
    content = json.loads(document)
    descriptors = [*content.get("manifests", ()), *content.get("layers", ())]
    for descriptor in (*descriptors, content.get("config", {})):
        if descriptor.get("digest") == digest_of(old):
            descriptor |= {"digest": digest_of(new), "size": len(new)}
    return json.dumps(content).encode()


# --- JSON ---


def mutate_json(text: bytes, chance: random.Random) -> bytes:
    """Change one to three nodes of a document, or its text."""
    if chance.random() < 0.25:
        return chance.choice(_TEXT_EDITS)(text, chance)
    document = json.loads(text)
    for _ in range(chance.randint(1, 3)):
        document = _edit_node(document, chance)
    changed = json.dumps(document, separators=(",", ":"), ensure_ascii=chance.random() < 0.9)
    encoded = changed.encode("utf-8", "surrogatepass")
    return encoded.replace(json.dumps(DEEP).encode(), b"[" * 100_000 + b"]" * 100_000)


def _edit_node(document: Any, chance: random.Random) -> Any:
    places = list(_places(document))
    if not places:
        return _hostile_value(chance)
    holder, key = chance.choice(places)
    edit = chance.randrange(9)
    if edit == 0:
        del holder[key]
    elif edit == 1:
        other, name = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    elif edit == 2 and isinstance(holder, dict):
        holder[chance.choice(HOSTILE_TEXTS)] = holder.pop(key)
    elif edit == 3 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * chance.choice((1, _many(holder[key])))
    elif edit == 4 and isinstance(holder, list):
        chance.shuffle(holder)
    elif edit == 5:
        holder[key] = DEEP
    elif edit == 6:
        count = chance.choice((1, _many(holder[key])))
        holder[key] = {f"{number:x}": holder[key] for number in range(count)}
    else:
        holder[key] = _hostile_value(chance)
    return document


def _many(value: Any) -> int:
    """Return how often a value may stand in a document, for some megabytes."""
    return min(50_000, 4_000_000 // len(json.dumps(value)))


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value of a document as the list or object that it is in, and its key."""
    keys = document if isinstance(document, dict) else range(len(document))
    if isinstance(document, dict | list):
        for key in keys:
            yield document, key
            if isinstance(document[key], dict | list):
                yield from _places(document[key])


def _hostile_value(chance: random.Random) -> Any:
    return chance.choice((*HOSTILE_VALUES, *HOSTILE_TEXTS, *MEDIA_TYPES))


def _cut(text: bytes, chance: random.Random) -> bytes:
    return text[: chance.randrange(len(text))]


def _flip(text: bytes, chance: random.Random) -> bytes:
    changed = bytearray(text)
    for _ in range(chance.choice((1, 1, 20))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _double_key(text: bytes, chance: random.Random) -> bytes:
    key = chance.choice(sorted(json.loads(text)))
    value = json.dumps(chance.choice(HOSTILE_VALUES))
    return text.rstrip()[:-1] + f",{json.dumps(key)}:{value}}}".encode()


_TEXT_EDITS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut,
    _flip,
    _double_key,
    lambda text, _: b"\xef\xbb\xbf" + text,
    lambda text, _: text.decode().encode("utf-16"),
    lambda text, _: text + b"{}",
    lambda text, _: text + b" " * 5_000_000,
    lambda text, _: b"",
    lambda text, _: b"null",
    lambda text, _: b"[" * 100_000,
    lambda text, _: b"<html>\x1b[2J</html>",
)

# --- Layers ---


def _entries(layer: bytes) -> Entries:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
        found = [(one, archive.extractfile(one) if one.isreg() else None) for one in archive]
        return [(entry, file.read() if file else b"") for entry, file in found]


def _packed(entries: Entries) -> bytes:
    """Write the entries with the sizes that their headers name, true or not."""
    stream = io.BytesIO()
    for header, content in entries:
        stream.write(header.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape"))
        stream.write(content + bytes(-len(content) % 512))
    stream.write(bytes(1024))
    return gzip.compress(stream.getvalue(), 1, mtime=0)


def _edit_entries(layer: bytes, chance: random.Random) -> bytes:
    entries = _entries(layer)
    for _ in range(chance.randint(1, 3)):
        number = chance.randrange(len(entries))
        header, content = entries[number]
        edit = chance.randrange(10)
        if edit == 0 and len(entries) > 1:
            del entries[number]
        elif edit == 1:
            entries.insert(chance.randrange(len(entries)), (header, content))
        elif edit == 2:
            chance.shuffle(entries)
        elif edit == 3:
            content = chance.randbytes(chance.choice((0, 1, 600)))
            entries[number] = _changed(header, size=len(content)), content
        elif edit == 4:
            size = chance.choice((0, len(content) + 1, 2**33, 2**62))
            entries[number] = _changed(header, size=size), content
        elif edit == 5:
            kind = chance.choice(TAR_KINDS)
            entries[number] = _changed(header, type=kind, linkname="../../outside"), content
        elif edit == 6:
            entries[number] = _changed(header, mode=chance.choice((0, 0o4755, 0o7777))), content
        else:
            prefix = chance.choice(("", "var/run/kontext/", STATE))
            text = chance.choice(HOSTILE_TEXTS)[:5000].replace("\0", "")
            raw = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
            entries[number] = _changed(header, name=prefix + raw), content
    return _packed(entries)


def _changed(header: tarfile.TarInfo, **changes: Any) -> tarfile.TarInfo:
    changed = copy.copy(header)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _edit_bytes(layer: bytes, chance: random.Random) -> bytes:
    return chance.choice(
        (
            _cut,
            _flip,
            lambda text, _: text + text,
            lambda text, _: text + b"garbage",
            lambda text, _: b"",
            lambda text, _: b"\x28\xb5\x2f\xfd" + text,
            lambda text, _: gzip.decompress(text),
            lambda text, _: gzip.compress(text, 1, mtime=0),
        )
    )(layer, chance)


def _bomb(layer: bytes, chance: random.Random) -> bytes:
    """Put a file of zeros into the layer: before all else, or in the place of an entry."""
    entries = _entries(layer)
    number = chance.choice((0, chance.randrange(len(entries))))
    header = _changed(entries[number][0], size=BOMB, type=tarfile.REGTYPE)
    if chance.random() < 0.5:
        header.name = "var/run/kontext/bomb"
    before, after = _packed(entries[:number]), _packed(entries[number:])
    # Without the two empty blocks at the end of an archive.
    start = gzip.compress(gzip.decompress(before)[:-1024] + header.tobuf(), 1, mtime=0)
    zeros = gzip.compress(bytes(BOMB // 16), 9, mtime=0) * 16
    return start + zeros + after


# --- Images ---

Mutation = Callable[[TrueImage, random.Random, bool], TrueImage]


def _of_layer(edit: Callable[[bytes, random.Random], bytes]) -> Mutation:
    def mutation(image: TrueImage, chance: random.Random, lies: bool) -> TrueImage:
        number = chance.randrange(max(1, len(image.layers) - 1))  # seldom the extractor's, on top
        return _with_layer(image, number, edit(image.layers[number], chance), lies)

    return mutation


def _of_state(image: TrueImage, chance: random.Random, lies: bool) -> TrueImage:
    """Mutate Kontext's manifest or one of its parts."""
    document = json.loads(image.manifest)
    known = document["annotations"][MANIFEST_ANNOTATION]
    for number, layer in enumerate(image.layers):
        entries = _entries(layer)
        found = [n for n, (header, _) in enumerate(entries) if header.name.startswith(STATE)]
        if not any(digest_of(entries[n][1]) == known for n in found):
            continue
        chosen = chance.choice([n for n in found if entries[n][0].isreg()])
        header, content = entries[chosen]
        new = mutate_json(content, chance)
        entries[chosen] = _changed(header, size=len(new)), new
        if not lies and digest_of(content) == known:
            manifest = image.manifest.replace(known.encode(), digest_of(new).encode())
            image = replace(image, manifest=manifest)
        return _with_layer(image, number, _packed(entries), lies)
    raise AssertionError("no layer has the manifest")


def _of_config(image: TrueImage, chance: random.Random, lies: bool) -> TrueImage:
    return _with_config(image, mutate_json(image.config, chance), lies)


def _with_config(image: TrueImage, config: bytes, lies: bool) -> TrueImage:
    manifest = image.manifest if lies else _renamed(image.manifest, image.config, config)
    return replace(image, config=config, manifest=manifest)


def _of_manifest(image: TrueImage, chance: random.Random, lies: bool) -> TrueImage:
    return replace(image, manifest=mutate_json(image.manifest, chance))


def _cyclic(image: TrueImage, chance: random.Random, lies: bool) -> TrueImage:
    """Let a descriptor lead to another blob of the image, or to the image of before."""
    digests = [digest_of(blob) for blob in (image.manifest, image.config, *image.layers)]
    one, other = chance.sample(digests, 2)
    return replace(image, manifest=image.manifest.replace(one.encode(), other.encode()))


def _with_layer(image: TrueImage, number: int, layer: bytes, lies: bool) -> TrueImage:
    old = image.layers[number]
    layers = (*image.layers[:number], layer, *image.layers[number + 1 :])
    manifest = image.manifest if lies else _renamed(image.manifest, old, layer)
    image = replace(image, layers=layers, manifest=manifest)
    try:
        old_id, new_id = _diff_id(old), _diff_id(layer)
    except (OSError, EOFError, zlib.error):
        return image
    config = image.config.replace(old_id.encode(), new_id.encode())
    return _with_config(image, config, lies)


def _diff_id(layer: bytes) -> str:
    found = hashlib.sha256()
    with gzip.open(io.BytesIO(layer)) as archive:
        while piece := archive.read(1 << 20):
            found.update(piece)
    return f"sha256:{found.hexdigest()}"


_MUTATIONS: dict[str, Mutation] = {
    "Kontext's manifest": _of_state,
    "the entries of a layer": _of_layer(_edit_entries),
    "the bytes of a layer": _of_layer(_edit_bytes),
    "a layer with a bomb": _of_layer(_bomb),
    "the configuration": _of_config,
    "the image manifest": _of_manifest,
    "what a descriptor leads to": _cyclic,
}
