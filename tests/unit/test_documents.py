"""What the documents say can be typed, and what they point to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import anchors, blocks, commands, documents, links, parse_yaml

from kontext_plugin import read_version
from kontext_plugin.cli.flags import parse
from kontext_plugin.cli.options import COMMANDS, DEFAULT_TIMEOUT
from kontext_plugin.image.spec import MAX_LAYERS
from kontext_plugin.terminal.steps import StepName

ROOT = Path(__file__).parents[2]
DOCUMENTS = documents(ROOT)

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@every_document
def test_commands_can_be_typed(document: Path) -> None:
    for name, *arguments in commands(document):
        assert name in COMMANDS, f"docker kontext {name}"
        if "--help" not in arguments:
            parse(COMMANDS[name], arguments)


def test_commands_are_found() -> None:
    found = [command for document in DOCUMENTS for command in commands(document)]
    assert ["push", "-t", "registry.example.com/me/app:dev", "."] in found
    assert ["push", "-q", "-t", "registry.example.com/me/app:dev", "."] in found


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_step_is_documented() -> None:
    text = (ROOT / "docs/progress.md").read_text("utf-8")
    assert re.findall(r"^\| `([^`]+)` \| ", text.partition("The steps are:")[2], re.M) == [
        step.value for step in StepName
    ]


def test_all_files_name_the_same_versions_of_python() -> None:
    settings = (ROOT / "setup.cfg").read_text("utf-8")
    minors = [
        int(n)
        for n in re.findall(r"^ +Programming Language :: Python :: 3\.(\d+)$", settings, re.M)
    ]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert f"python_requires = >=3.{minors[0]}\n" in settings
    assert f"env_list = {', '.join(f'py3{minor}' for minor in minors)}\n" in settings
    workflow = parse_yaml((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    pythons = workflow["jobs"]["unit"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in minors]
    for document in ("README.md", "docs/platforms.md"):
        text = (ROOT / document).read_text("utf-8")
        assert f"3.{minors[0]} to 3.{minors[-1]}" in text


PINS = {
    "README.md": r"docker_kontext-([\d.]+)-py3",
    "docs/ci.md": r"(?:integrations/github@v|/kontext@)([\d.]+)",
    "docs/provenance.md": r'"kontext": "([\d.]+)"',
    "integrations/github/action.yml": r"docker-kontext==([\d.]+)",
    "integrations/gitlab/templates/kontext.yml": r"docker-kontext==([\d.]+)",
    "integrations/image/Dockerfile": r"docker-kontext==([\d.]+)",
}
"""Files that name a version of Kontext, and where."""


@pytest.mark.parametrize("path", PINS)
def test_a_version_is_this_one(path: str) -> None:
    found = re.findall(PINS[path], (ROOT / path).read_text("utf-8"))
    assert set(found) == {read_version()}


def test_the_help_names_the_defaults() -> None:
    helps = {option.name: option.help for option in COMMANDS["push"].options}
    assert f"(default {MAX_LAYERS})" in helps["max-layers"]
    assert f"(default {DEFAULT_TIMEOUT:.0f}s;" in helps["timeout"]


def test_the_readme_has_every_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in COMMANDS if name != "version" and f"| [`{name}`](" not in readme] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    documents = ["push"] if name == "push" else ["commands"]
    documents += ["push"] if name == "watch" else []  # it has most of the same options
    text = "".join((ROOT / f"docs/{one}.md").read_text("utf-8") for one in documents)
    for option in COMMANDS[name].options:
        names = f"--{option.name}" + (f"|-{option.short}" if option.short else "")
        assert option.hidden or re.search(rf"(?<![\w-])(?:{names})\b", text), option.name


def test_the_document_of_watch_names_the_options_that_it_does_not_have() -> None:
    """It would ignore them: files of results are for a single push."""
    text = (ROOT / "docs/commands.md").read_text("utf-8")
    (listed,) = re.findall(r"for a single push\n\((.+)\), and these:", text)
    options = {name: {one.name for one in COMMANDS[name].options} for name in ("push", "watch")}
    missing = options["push"] - options["watch"]
    assert re.findall(r"`--([\w-]+)`", listed) == sorted(missing)


@pytest.mark.slow
def test_the_one_test_of_contributing_runs() -> None:
    (block,) = (b for b in blocks(ROOT / "CONTRIBUTING.md") if b.heading == "One test")
    python, *arguments = block.text.split()
    assert python == "python"
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
