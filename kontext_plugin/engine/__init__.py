"""The Docker daemon.

`config` reads docker's contexts, and chooses the daemon as docker does.
`daemon` speaks to that daemon. Pushes need neither.

May import workspace, cache, registry, and everything below them.
"""
