"""Layer tarballs: tar headers, compression, and readers for what a registry sends of them.

May import manifest, image and what is below. What goes into a layer is delta.py's business.
"""
