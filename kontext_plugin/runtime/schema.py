"""JSON documents from outside, checked by the schemas in `kontext_plugin/schemas`.

Every error is an InvalidDocument. Nothing else in Kontext imports jsonschema.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from kontext_plugin.errors import brief

IMAGE_MANIFEST = "image-manifest"
IMAGE_CONFIG = "image-config"
IMAGE_INDEX = "image-index"
MANIFEST_PART = "manifest-part"
MANIFEST_REVERSE_DELTA = "manifest-reverse-delta"
DOCKER_CONFIG = "docker-config"
DOCKER_CONTEXT = "docker-context"
CONFIG_FILE = "config-file"

_MANIFEST_VERSIONS = {1: "manifest-v1", 2: "manifest-v2", 3: "manifest-v3"}

_COLUMNS = ("files", "links", "paths", "sizes")
"""Definitions whose values `manifest.decode` checks: there may be 100,000 of them, and jsonschema
takes tens of microseconds for each."""


class InvalidDocument(ValueError):
    """JSON that is broken, or that has another shape. The text says where and why."""


def load_document(content: bytes, name: str) -> dict[str, Any]:
    """Return the document in `content` if the schema `name` allows it. Raises InvalidDocument."""
    document = parse_json(content)
    check_document(document, name)
    return document


def load_manifest(content: bytes) -> dict[str, Any]:
    """Return a Kontext manifest of any version that this Kontext reads. Raises InvalidDocument."""
    document = parse_json(content)
    version = document.get("version", 1)
    if type(version) is not int or version not in _MANIFEST_VERSIONS:
        raise InvalidDocument(f"it is of the unknown version {brief(version)}")
    check_document(document, _MANIFEST_VERSIONS[version])
    return document


def parse_json(content: bytes) -> dict[str, Any]:
    """Return a JSON object in UTF-8 (RFC 8259, 8.1) of any shape. Raises InvalidDocument."""
    try:
        document = json.loads(content.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"it is not JSON: {brief(error)}") from error
    if not isinstance(document, dict):
        raise InvalidDocument("it is no JSON object")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # Python reads NaN and Infinity


def check_document(document: dict[str, Any], name: str) -> None:
    """Raise InvalidDocument, with the place, unless the schema `name` allows the document."""
    validator = _validator(name)
    try:
        error = next(validator.iter_errors(document), None)
    except RecursionError:
        raise InvalidDocument("it is nested too deeply") from None
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path)
        where = f"{brief(place)}: " if place else ""
        raise InvalidDocument(f"{where}{brief(error.message)}")


@functools.cache
def _validator(name: str) -> Any:
    # Both take 90 ms, and most commands validate nothing.
    from importlib import resources

    import jsonschema

    source = resources.files("kontext_plugin").joinpath("schemas", f"{name}.json").read_bytes()
    rules = json.loads(source)
    for column in _COLUMNS:
        for keyword in ("additionalProperties", "items", "uniqueItems"):
            rules.get("$defs", {}).get(column, {}).pop(keyword, None)
    strict = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    validator: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, type_checker=strict
    )
    return validator(rules)


def _is_integer(_: object, value: object) -> bool:
    return type(value) is int  # JSON Schema takes 1.0 for an integer too
