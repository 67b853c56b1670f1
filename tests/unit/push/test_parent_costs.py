"""What the choice of a base costs over a thousand pushes, beside skip-deltas on the same history.

`pytest -s tests/unit/test_choice_costs.py` prints the table of docs/choice.md. Bytes are those of
sources, uncompressed, without manifests, which would hide the difference.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pytest

from kontext_plugin import manifest
from kontext_plugin.delta import diff, layer_bytes, tree_bytes
from kontext_plugin.image.oci import Digest, Image, Layer, digest_of
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import Tree
from kontext_plugin.push import plan
from kontext_plugin.push.parent import BuildOn, StartFresh, candidates_of, choose, lineage_of
from kontext_plugin.push.plan import make_plan
from kontext_plugin.registry.fetch import KontextImage

BASE = Digest("sha256:" + "b" * 64)
WANTED = ImageSpec(BASE, (Layer(BASE, 1),), BASE, "linux/amd64", {}, lambda labels: {})
FILES, PUSHES = 2000, 1000
Spread = Literal["hot", "even"]
Choose = Callable[[KontextImage, ImageSpec, Tree], BuildOn | StartFresh]


@dataclass(frozen=True)
class Costs:
    layers: int  # the most at any time, the base's among them
    upload: float  # of all pushes, by the sum of the single deltas
    size: float  # the largest, by a fresh image's


def skip_deltas(previous: KontextImage, wanted: ImageSpec, tree: Tree) -> BuildOn | StartFresh:
    """Subversion's: generation g builds on g with its lowest set bit cleared."""
    generation = lineage_of(previous).generation + 1
    wanted_one = generation & (generation - 1)
    choice = next(
        candidate
        for candidate in candidates_of(previous, tree)
        if candidate.ancestors[-1].generation == wanted_one
    )
    if 2 * choice.bytes > tree_bytes(tree):
        return StartFresh("more than half of the bytes changed")
    return choice


def history(spread: Spread) -> Iterator[Tree]:
    """1 to 10 files change each time; "hot": 80 % of the edits fall on 5 % of the files."""
    chance = random.Random(spread)
    sizes = {f"{n}": int(min(chance.lognormvariate(8, 1.2), 300_000)) for n in range(FILES)}
    files = {path: hashlib.sha256(path.encode()).hexdigest() for path in sizes}
    yield Tree(dict(files), sizes)
    names = list(sizes)
    few = names[: FILES // 20]
    for _ in range(PUSHES):
        for _ in range(chance.randint(1, 10)):
            hot = spread == "hot" and chance.random() < 0.8
            path = chance.choice(few if hot else names)
            files[path] = hashlib.sha256(files[path].encode()).hexdigest()
        yield Tree(dict(files), sizes)


def costs(spread: Spread) -> Costs:
    most, upload, single, size = 0, 0, 0, 0.0
    previous: KontextImage | StartFresh = StartFresh("there is nothing")
    for tree in history(spread):
        made = make_plan(previous, WANTED, tree)
        if isinstance(previous, KontextImage):
            upload += layer_bytes(made.changes, tree)
            single += layer_bytes(diff(previous.manifest.tree, tree), tree)
        held = made.manifest(layer.digest for layer in made.beneath)
        digest = digest_of(manifest.encode(held))
        image = Image(digest, (*made.beneath, Layer(digest, 1)), digest)
        previous = KontextImage(image, held)
        most = max(most, len(image.layers))
        size = max(size, made.lineage.content / tree_bytes(tree))
    return Costs(most, upload / single, size)


@pytest.mark.parametrize("spread", ["hot", "even"])
def test_a_thousand_pushes(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "choose", choose)
    ours = costs(spread)
    monkeypatch.setattr(plan, "choose", skip_deltas)
    theirs = costs(spread)
    for name, made in (("by bytes", ours), ("skip-deltas", theirs)):
        print(f"| {spread} | {name} | {made.layers} | {made.upload:.2f} | {made.size:.2f} |")
    assert ours.layers <= 16
    assert ours.size <= 2
    assert ours.upload < theirs.upload
    assert ours.upload <= 4 or spread == "even"
