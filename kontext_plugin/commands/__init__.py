"""One module a command: its story, read top to bottom."""
