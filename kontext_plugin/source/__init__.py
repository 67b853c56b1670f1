"""The source directory: which of its files go into an image, and their tree.

`directory` opens and scans it; `ignore_rules` reads its ignore file; `git` asks about its work
tree; `scan` applies these filters; `hashing` hashes the files that the stat cache does not know.

May import manifest, image, terminal, runtime and errors.
"""
