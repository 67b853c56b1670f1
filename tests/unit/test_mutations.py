"""The mutations of support.mutations: a seed decides them, and digests fit or are the old ones."""

from __future__ import annotations

import gzip
import json
import random

import pytest
from support import mutations
from support.fake_registry import gzip_layer
from support.layers import NO_FILES
from support.mutations import MANIFEST_ANNOTATION, TrueImage, mutate

from kontext_plugin.image.oci import digest_of


def image() -> TrueImage:
    state = json.dumps(NO_FILES).encode()
    layers = gzip_layer(state, ("var/run/kontext/file", b"content")), gzip_layer(("program", b"x"))
    diff_ids = [digest_of(gzip.decompress(layer)) for layer in layers]
    config = json.dumps({"os": "linux", "rootfs": {"diff_ids": diff_ids}}).encode()
    document = {
        "config": {"digest": digest_of(config), "size": len(config)},
        "layers": [{"digest": digest_of(layer), "size": len(layer)} for layer in layers],
        "annotations": {MANIFEST_ANNOTATION: digest_of(state)},
    }
    return TrueImage(json.dumps(document).encode(), config, layers)


TRUE = image()
INDEX = json.dumps(
    {"manifests": [{"digest": digest_of(TRUE.manifest), "size": len(TRUE.manifest)}]}
).encode()


@pytest.mark.parametrize("index", [b"", INDEX], ids=["image", "index"])
def test_a_seed_decides_a_mutation_and_its_digests_fit(
    index: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations, "BOMB", 1 << 20)
    kinds = set()
    for seed in range(60):
        mutated = mutate([TRUE], index, random.Random(seed))
        kinds.add(mutated.what)
        assert mutated == mutate([TRUE], index, random.Random(seed))
        named = {**mutated.documents, **mutated.blobs}
        if "old digests" in mutated.what:
            true = (TRUE.manifest, TRUE.config, *TRUE.layers)
            assert set(named) == {digest_of(blob) for blob in true}
        else:
            assert all(digest_of(content) == name for name, content in named.items())
        if index and mutated.what != "the index":
            assert mutated.documents.keys() == {
                child["digest"] for child in json.loads(mutated.top)["manifests"]
            }
    plain = {kind.partition(",")[0] for kind in kinds}
    assert len(plain) == (8 if index else 7)
    assert len(kinds) > len(plain), "some kept the old digests"
