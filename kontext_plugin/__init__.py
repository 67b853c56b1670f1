"""Kontext: upload a source directory to a registry as a self-extracting, incremental image."""


def read_version() -> str:
    """Return the version, which plugin.json has. What repeats it is compared by a test."""
    import json
    import os

    path = os.path.join(os.path.dirname(__file__), "plugin.json")
    with open(path, encoding="utf-8") as file:
        metadata: dict[str, str] = json.load(file)
    return metadata["Version"]
