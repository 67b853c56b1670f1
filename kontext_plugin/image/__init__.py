"""An image as data: references, trees, digests, layers, configurations, layouts, specifications.

Pure, but for reading and writing OCI layouts. May import terminal, runtime and errors.
"""
