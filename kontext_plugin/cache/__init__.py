"""What this machine keeps between pushes. All of it may be lost: pushes then take longer.

`store` keeps records in files, and lends scratch directories; `records` encodes what is in them.

May import registry, source, manifest and everything below them.
"""
