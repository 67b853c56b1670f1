"""Which generations of an image are known, and what is known of each."""

from __future__ import annotations

from support.models import NOTHING, SPEC, TAG, described, plan_on, published
from support.trees import Directory, File, Tree

from kontext_plugin.cache import PushRecord
from kontext_plugin.delta import FileCounts
from kontext_plugin.image.oci import Digest
from kontext_plugin.push.history import Generation, generations
from kontext_plugin.registry.fetch import KontextImage

BALLAST = File(b"b" * 100_000)


def pushed(*trees: Tree) -> list[KontextImage]:
    """Push the trees one after another; return the image of each."""
    images: list[KontextImage] = []
    for tree in trees:
        parent = images[-1] if images else NOTHING
        images.append(published(plan_on(parent, SPEC, described(tree | {"ballast": BALLAST}))))
    return images


def counts(found: list[Generation]) -> list[tuple[int, FileCounts | None]]:
    return [(one.number, one.counts) for one in found]


def record(image: KontextImage, **changes: object) -> PushRecord:
    facts: dict[str, object] = {"generation": image.lineage.generation, "time": 1e9} | changes
    return PushRecord("/d", str(TAG), image.digest, **facts)  # type: ignore[arg-type]


def test_each_generation_says_what_it_changed() -> None:
    first: Tree = {"d": Directory(), "d/a": File(b"a"), "d/b": File(b"b"), "c": File(b"c")}
    second: Tree = {"d": Directory(), "d/a": File(b"A"), "c": File(b"c"), "new": File(b"n")}
    *_, newest = pushed(first, second)
    found = generations(newest, TAG, [])
    assert counts(found) == [(1, FileCounts(1, 1, 1)), (0, FileCounts(added=4))], (
        "the first push added what was changed and removed later, too"
    )
    assert [one.back for one in found] == [0, 1]
    assert found[0].digest == newest.digest


def test_pushes_of_this_machine_fill_the_gaps_and_tell_when() -> None:
    trees: list[Tree] = [{"a": File(bytes([number]))} for number in range(4)]
    images = pushed(*trees)
    records = [record(image, changed=1, uploaded=7) for image in reversed(images)]
    found = generations(images[-1], TAG, records)
    assert [one.number for one in found] == [3, 2, 1, 0]
    assert all(one.time == "2001-09-09T01:46:40Z" for one in found)


def test_only_one_image_of_a_generation_has_a_name() -> None:
    """Labels alone make another image of the same sources."""
    (image,) = pushed({"a": File(b"a")})
    relabelled = record(image)
    others = [PushRecord("/d", str(TAG), Digest("sha256:" + letter * 64), 1e9) for letter in "ab"]
    found = generations(image, TAG, [relabelled, *others])
    assert [one.back for one in found] == [0, None, None]


def test_a_push_to_another_tag_adds_no_generation() -> None:
    images = pushed({"a": File(b"a")}, {"a": File(b"b")})
    other = PushRecord("/d", "r.io/x:other", Digest("sha256:" + "c" * 64), 1e9, generation=0)
    assert generations(images[-1], TAG, [other]) == generations(images[-1], TAG, [])
