"""Kontext: upload a source directory to a registry as a self-extracting, incremental image."""

__version__ = "0.1.0"
