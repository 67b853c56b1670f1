"""Kontext: upload a source directory to a registry as a self-extracting, incremental image."""


def read_version() -> str:
    """Return the version. It stands in plugin.json alone, which the shim shows to docker."""
    import json
    import os

    path = os.path.join(os.path.dirname(__file__), "plugin.json")
    with open(path, encoding="utf-8") as file:
        metadata: dict[str, str] = json.load(file)
    return metadata["Version"]
