"""Start Kontext without docker: `docker-kontext`, and `python -m kontext_plugin`.

This runs the file that docker starts, so both ways are the same. It imports nothing of Kontext: on
Windows, an import would fail.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    if sys.platform == "win32":
        sys.exit(
            "ERROR: Kontext does not run on Windows itself\n"
            "Install it in WSL: run 'wsl', and there 'pipx install docker-kontext'."
        )
    shim = os.path.join(os.path.dirname(os.path.realpath(__file__)), "docker-kontext")
    os.execv("/bin/sh", ["sh", shim, *sys.argv[1:]])


if __name__ == "__main__":
    main()
