"""The commands: NAME.py is `docker kontext NAME`, a story from top to bottom.

Its `main(arguments, flags)` returns the exit code. Results go to stdout and messages to stderr.
cli/main.py turns errors into messages. Nothing imports a command, except `run` (`load`) and
`doctor` (`install`). May import everything.
"""
