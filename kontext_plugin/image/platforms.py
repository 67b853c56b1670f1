"""The platforms that images are made for. Not in `spec`, whose imports slow down every --help."""

PLATFORMS = ("linux/amd64", "linux/arm64")
"""The first is the default."""
