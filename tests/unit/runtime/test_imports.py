"""Late imports: a module that nobody uses is not loaded, and one that somebody uses is whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = """
import sys
from kontext_plugin.runtime.imports import without
def loaded():
    return "http.client" in sys.modules
"""

PROGRAMS = {
    "used later": """
with without("urllib.request"):
    import urllib.request as late
assert not loaded() and "urllib.request" not in sys.modules
assert late.pathname2url("/a b") == "/a%20b"
import urllib.request
assert loaded() and urllib.request.pathname2url is late.pathname2url
""",
    "used in the block": """
with without("urllib.request"):
    from urllib.request import pathname2url
import urllib.request
assert urllib.request.pathname2url is pathname2url
""",
    "imported before": """
import urllib.request as before
with without("urllib.request"):
    import urllib.request as late
assert late is before is sys.modules["urllib.request"]
""",
    "after an error": """
try:
    with without("urllib.request"):
        raise KeyError
except KeyError:
    pass
import urllib.request
assert loaded()
""",
    "to run crane": """
import platform
ask, started = platform.uname, set()
sys.addaudithook(lambda event, data: event == "subprocess.Popen" and started.add(data[0]))
from kontext_plugin.crane_driver.process import CraneRunner
with CraneRunner("/bin/true") as crane:
    crane.run("version")
assert "plumbum" in sys.modules
assert not {"http.client", "ssl", "email"} & sys.modules.keys(), "they take as long as the rest"
assert started == {"/bin/true"}, "uname -p takes long, too"
assert platform.uname is ask
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_module_is_loaded_when_it_is_used(program: str) -> None:
    subprocess.run([sys.executable, "-c", PRELUDE + program], check=True)
