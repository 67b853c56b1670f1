"""The Docker daemon, and docker's own configuration.

`config` reads docker's config.json and its contexts, and chooses the daemon as docker does.
`daemon` speaks to that daemon. Pushes need neither.

May import workspace, cache, registry, and everything below them.
"""
