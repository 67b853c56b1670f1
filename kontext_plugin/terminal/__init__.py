"""The only writer of stdout and stderr: messages, progress lines, JSON events.

`messages` writes both streams. `steps` measures the steps of a push, and `progress` shows them.
`text` formats without I/O. The package may import `runtime` and `errors`. Only `progress` imports
rich, and only when it draws.
"""
