"""docker's plugin protocol: what docker passes to the plugin, and what it expects back.

`main` runs a command line and turns errors into exit codes; `options` is the table of commands,
with their flags and help; `flags` reads command lines by docker's rules; `completion` answers the
shell; `signals` turns every kind of interruption into one KeyboardInterrupt.

May import everything but commands and push. `main` imports a command when it runs it. Nothing here
imports a slow package: each `docker kontext COMMAND --help` waits for these imports.
"""

from kontext_plugin.runtime.imports import without

with without("inspect"):  # 5 ms; dataclasses reads it only for a class without a docstring
    import dataclasses  # noqa: F401
