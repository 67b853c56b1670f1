"""Images as a registry has them: an image of Kontext's with its sources, and the base images.

Everything goes through crane, and nothing is trusted. May import delta, layer, manifest, crane and
what is below.
"""
