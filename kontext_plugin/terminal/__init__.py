"""The only writer of stdout and stderr: messages, progress lines, JSON events.

`messages` writes both streams. `steps` measures the steps of a push, and `progress` shows them.
`text` and `table` format without I/O. The package may import `runtime` and `errors`. `progress`
imports rich when it draws, and `table` for a text that is not ASCII.
"""

PROGRESS_MODES = ("auto", "tty", "plain", "json", "quiet")
"""The values of --progress."""
