"""What a purge tells of the registry. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kontext_plugin.image import Digest, Layer
from kontext_plugin.reference import Reference
from kontext_plugin.text import number, size


@dataclass(frozen=True)
class Remains:
    """What a registry still has of an image whose tag shows another one now."""

    images: tuple[Digest, ...]  # that have these layers: it, and the earlier ones that it knows of
    layers: tuple[Layer, ...]  # those of it that the new image does not have
    tags: tuple[str, ...] | None  # whose images have some of these; None: they cannot be listed
    unseen: int = 0  # more tags than were looked at


def remaining(tag: Reference, remains: Remains) -> str:
    """Who can still have it, and how to remove it."""
    if not remains.layers:
        return (
            f"{tag} had nothing in its layers that it does not show. The registry may still have\n"
            "images that the tag showed before; a secret that was published has to be revoked."
        )
    lines = ["The registry still has the old layers, for whoever knows a digest:"]
    lines += [f"  {tag.at(layer.digest)}  {size(layer.size)}" for layer in remains.layers]
    if remains.tags:
        lines += ["These tags show some of them, purge or remove them as well:"]
        lines += [f"  {name}" for name in remains.tags]
    if remains.tags is None:
        lines.append("Its tags could not be listed: others may show these layers as well.")
    if remains.unseen:
        lines.append(f"{number(remains.unseen, 'more tag')} were not looked at.")
    lines += ["To remove them, delete the images that have them, as far as this one knows them,"]
    lines += [f"  crane delete {tag.at(image)}" for image in remains.images]
    lines += [
        "and have the registry remove what has no tag and collect its garbage: earlier images that",
        "this one was not built on are not known here. Registries differ: some delete by hand",
        "only, some not at all. A secret that was published has to be revoked in any case.",
    ]
    return "\n".join(lines)
