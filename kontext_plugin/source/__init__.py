"""The source directory: which of its files go into an image, and their tree.

`directory` opens and scans it; `ignore_rules` reads its ignore file; `git` asks about its work
tree; `filters` decides with both; `entries` lists directories, and `snapshot` is what the last scan
has left; `scan` makes the tree of these; `hashing` hashes the files that are not as before.

May import manifest, image, terminal, runtime and errors.
"""
