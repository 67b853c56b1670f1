"""The rules of a `.dockerignore`, as BuildKit applies them.

Three places define them, and this module holds to all three, quirks included:

- github.com/moby/patternmatcher/ignorefile, `ReadAll`: what a line means;
- github.com/moby/patternmatcher, `MatchesUsingParentResults`: which paths a pattern matches;
- github.com/tonistiigi/fsutil, `filter.go`: which excluded directories are still walked.

Docker turns a pattern into a regular expression of Go's by replacing text. That expression
decides, even where it surprises: `[*]` is no literal star, `\\d` is a digit, `[0-9]{4}` are four
digits, and the `**/` of `a/**/b` does not cross a directory with a newline in its name. A pattern
without `*?[]\\`, or with `**` at one end only, is compared as it stands.

Known differences, each an error here or without effect in practice:

- A pattern whose regular expression does not compile is an error even if no path is there to match.
- Refused although Go knows them: `\\p`, `\\P`, `\\Q`, octal escapes, `\\x{...}`, and `[:^name:]`.
- Lines over 64 KiB are read; Docker refuses them.
- A pattern with many stars takes polynomial time; in Go it is linear.
- `**` right behind a byte order mark that does not start the file works; Docker matches nothing.
- A byte that is not UTF-8 (a lone surrogate in Python) is that byte; to Go's regular expressions
  all such bytes are one and the same character.

One ignore pattern, as Go reads it: its syntax check, and its regular expression in Python.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import dropwhile, groupby
from typing import NamedTuple

from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.runtime.files import read_file

IGNORE_FILES = (".kontextignore", ".dockerignore")

IGNORE_FILE_BYTES = 1024 * 1024


def rule_file(root: str, chosen: str) -> str:
    """Where to add a rule: the chosen ignore file, or the one that a directory has or should."""
    own = (name for name in IGNORE_FILES if os.path.exists(os.path.join(root, name)))
    return chosen or next(own, IGNORE_FILES[0])


def read_ignore_rules(root: str, chosen: str) -> IgnoreRules:
    """The rules of the chosen ignore file, or of the directory's own. Raises KontextError."""
    candidates = [chosen] if chosen else [os.path.join(root, name) for name in IGNORE_FILES]
    for path in candidates:
        try:
            content = read_file(path, IGNORE_FILE_BYTES)
            return parse_rules(content.decode("utf-8", "surrogateescape"), path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise KontextError(
                f"the ignore file {path!r} cannot be used: {reason_of(error)}"
            ) from error
    if chosen:
        raise KontextError(f"the ignore file {chosen!r} does not exist")
    return IgnoreRules()


# Go's unicode.IsSpace; str.strip() alone would also take the separators \x1c to \x1f.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class Verdict(NamedTuple):
    """What the rules say of one path, and what the paths below it need to know.

    A tuple because one is made for each file, and a frozen dataclass takes twice as long.
    `matched` has bit n set if group n of the rules matched the path or a parent of it.
    """

    excluded: bool
    matched: int


ROOT = Verdict(excluded=False, matched=0)
"""The parent of all top-level entries: no rule matches the root itself."""


class _Kind(Enum):
    EXACT = auto()
    PREFIX = auto()
    SUFFIX = auto()
    REGEX = auto()


@dataclass(frozen=True)
class _Pattern:
    """One line: `keeps` is its `!`; `value` is what a path is compared with, as `kind` says."""

    keeps: bool
    text: str
    kind: _Kind
    value: str


@dataclass(frozen=True)
class _Group:
    """Consecutive patterns that all exclude, or all keep: among them the order has no effect."""

    keeps: bool
    bit: int
    exact: frozenset[str]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    regex: re.Pattern[str] | None

    def matches(self, path: str) -> bool:
        return (
            path in self.exact
            or path.startswith(self.prefixes)
            or f"/{path}".endswith(self.suffixes)  # the slash: "**/a" matches "a", too
            or (self.regex is not None and self.regex.match(path) is not None)
        )


@dataclass(frozen=True)
class IgnoreRules:
    """The parsed rules. Paths are relative, with slashes, without a leading `./`.

    A walk asks for one verdict per entry, with the verdict of the entry's directory (`ROOT` at the
    top). It enters an excluded directory only if `may_keep_below` says so, and keeps such a
    directory only for the sake of what it finds kept there.
    """

    groups: tuple[_Group, ...] = ()
    kept: tuple[str, ...] = ()
    keeps_anywhere: bool = False

    @property
    def empty(self) -> bool:
        """Whether no path at all can be excluded."""
        return not self.groups

    def verdict(self, path: str, parent: Verdict) -> Verdict:
        """Tell whether `path` is excluded: the last matching pattern wins.

        A pattern that matched a parent matches everything below, but its turn stays its own: after
        `a`, `!a/b`, `a/b/c` the path `a/b/x` is kept (moby: MatchesUsingParentResults).
        """
        excluded, matched = False, parent.matched
        for group in self.groups:
            if matched & group.bit:
                excluded = not group.keeps
            elif excluded is group.keeps and group.matches(path):
                excluded = not group.keeps
                matched |= group.bit
        return Verdict(excluded, matched)

    def may_keep_below(self, path: str) -> bool:
        """Whether to look for kept entries below the excluded directory `path`.

        It is fsutil's rule, and not only an optimization: with `**` and `!a/*/**`, the directory
        `a/b` is not entered, so `a/b/c` stays out although the second pattern matches it.
        """
        return self.keeps_anywhere or any(f"{kept}/".startswith(f"{path}/") for kept in self.kept)


def excludes(rules: IgnoreRules, path: str) -> bool:
    """Whether the rules exclude a single path, by its own name or a parent's."""
    verdict = ROOT
    for end in [*(found.start() for found in re.finditer("/", path)), len(path)]:
        verdict = rules.verdict(path[:end], verdict)
    return verdict.excluded


def pattern_for(path: str) -> str:
    """A pattern that matches this path alone (one with a line end has none)."""
    return re.sub(r"[*?\[\]\\!#]", r"\\\g<0>", path)


def parse_rules(text: str, source: str) -> IgnoreRules:
    """Parse the text of an ignore file; `source` names the file in error messages.

    The text must have its line endings untranslated: only `\\n` and `\\r\\n` end a line.

    Raises KontextError, with the source and the line number, if a pattern is malformed.
    """
    patterns: list[_Pattern] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        try:
            pattern = _parse_line(line)
        except ValueError as error:
            raise KontextError(
                f"{source}:{number}: malformed pattern {line.strip(_SPACE)!r}: {error}",
                hint=r"to match *, ?, [, ] or \ itself, put a \ before it",
            ) from None
        if pattern is not None:
            patterns.append(pattern)
    kept = tuple(_without_trailing_glob(p.text) for p in patterns if p.keeps)
    # A `!` before any excluding pattern has nothing to take back.
    runs = groupby(dropwhile(lambda p: p.keeps, patterns), key=lambda p: p.keeps)
    return IgnoreRules(
        groups=tuple(_group(keeps, 1 << n, run) for n, (keeps, run) in enumerate(runs)),
        kept=kept,
        keeps_anywhere=any(set(name) & set("*[]?^\\") for name in kept),
    )


def _parse_line(line: str) -> _Pattern | None:
    """Return the pattern of one line, if it has one. Raises ValueError if it is malformed."""
    if line.startswith("#"):
        return None
    # As ignorefile.ReadAll does it ...
    text = line.strip(_SPACE)
    bang = "!" if text.startswith("!") else ""
    text = text.removeprefix("!").strip(_SPACE)
    text = _clean(text).removeprefix("/") if text else ""
    # ... and then patternmatcher.New once more, on the result: `/!a` is `!a`, and `a /` is `a`.
    text = f"{bang}{text}".strip(_SPACE)
    if not text:
        return None
    text = _clean(text)
    if text == "!":
        raise ValueError("there is nothing after the !")
    return _compile(text.startswith("!"), text.removeprefix("!"))


def _clean(path: str) -> str:
    """Go's filepath.Clean: normpath, except that POSIX lets two leading slashes stand."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _without_trailing_glob(pattern: str) -> str:
    """`a/*/**` and `a/**` and `a/*` are `a` (fsutil: patternWithoutTrailingGlob)."""
    return pattern.removesuffix("/**").removesuffix("/*")


def _compile(keeps: bool, text: str) -> _Pattern:
    """Choose how a pattern is compared (moby: Pattern.compile). Raises ValueError."""
    check_syntax(text)
    if not _has_wildcard(text):
        return _Pattern(keeps, text, _Kind.EXACT, text)
    if text.startswith("**") and not _has_wildcard(text[2:]):
        return _Pattern(keeps, text, _Kind.SUFFIX, text[2:])
    if text.endswith("**") and not _has_wildcard(text[:-2]):
        return _Pattern(keeps, text, _Kind.PREFIX, text[:-2])
    return _Pattern(keeps, text, _Kind.REGEX, python_regex(go_regex(text)))


def _has_wildcard(text: str) -> bool:
    return re.search(r"[*?\[\]\\]", text) is not None


def _group(keeps: bool, bit: int, patterns: Iterable[_Pattern]) -> _Group:
    values: dict[_Kind, list[str]] = {kind: [] for kind in _Kind}
    for pattern in patterns:
        values[pattern.kind].append(pattern.value)
    regexes = values[_Kind.REGEX]
    return _Group(
        keeps,
        bit,
        exact=frozenset(values[_Kind.EXACT]),
        prefixes=tuple(values[_Kind.PREFIX]),
        suffixes=tuple(values[_Kind.SUFFIX]),
        regex=re.compile("|".join(regexes), re.ASCII) if regexes else None,
    )


# --- the syntax check: Go's filepath.Match(pattern, "."), of which moby uses only the error ---

_MATCH_CHAR = r"(?:\\.|[^\\\]-])"

_MATCH_CLASS = rf"\[(?:\^|(?!\^))(?:{_MATCH_CHAR}(?:-{_MATCH_CHAR})?)+\]"

_MATCH_PART = rf"(?s:{_MATCH_CLASS}|\\.|[^*\\\[])*"


def check_syntax(pattern: str) -> None:
    """Raise ValueError where filepath.Match(pattern, ".") returns an error.

    Match takes the pattern apart at its stars and stops at the first part that "." cannot satisfy:
    a later part is only checked by the compiler of regular expressions, which allows more. So
    `[-_]` is malformed, but `old*[-_]` is not.
    """
    part, rest = _match_part(pattern)
    if _matches_dot(part):
        _match_part(rest)


def _match_part(pattern: str) -> tuple[str, str]:
    """Split off what comes before the next star. Raises ValueError if that is malformed."""
    pattern = pattern.lstrip("*")
    part = _prefix(_MATCH_PART, pattern)
    rest = pattern[len(part) :]
    if rest and not rest.startswith("*"):
        raise ValueError(f"{rest!r} is not complete" if rest == "\\" else f"a bad class {rest!r}")
    return part, rest


def _matches_dot(part: str) -> bool:
    """Whether a well-formed part without stars matches "." in full."""
    if not part.startswith("["):
        return part in (".", r"\.", "?")
    if _prefix(_MATCH_CLASS, part) != part:
        return False
    ranges = re.findall(rf"({_MATCH_CHAR})(?:-({_MATCH_CHAR}))?", part[1:-1].removeprefix("^"))
    return any(low[-1] <= "." <= (high or low)[-1] for low, high in ranges) != (part[1] == "^")


def _prefix(regex: str, text: str) -> str:
    """Return the start of `text` that `regex` matches, maybe nothing."""
    found = re.match(regex, text)
    return found.group() if found else ""


# --- from Docker's pattern to Go's regular expression, and from that to Python's ---

_GO_ESCAPED = r"\\(?:[\x00-/:-@\[-`{-\x7f]|[afnrtv]|x[0-9A-Fa-f]{2})"

_GO_CHAR = rf"(?:[^\\]|{_GO_ESCAPED})"

_GO_SETS = {  # what they are between brackets; \d, \D, \w and \W are the same with re.ASCII
    r"\d": r"\d",
    r"\D": r"\D",
    r"\w": r"\w",
    r"\W": r"\W",
    r"\s": r"\t\n\f\r ",  # without \v
    r"\S": r"\S\v",
    "[:alnum:]": "0-9A-Za-z",
    "[:alpha:]": "A-Za-z",
    "[:ascii:]": r"\x00-\x7f",
    "[:blank:]": r"\t ",
    "[:cntrl:]": r"\x00-\x1f\x7f",
    "[:digit:]": "0-9",
    "[:graph:]": "!-~",
    "[:lower:]": "a-z",
    "[:print:]": " -~",
    "[:punct:]": r"!-/:-@\[-`{-~",
    "[:space:]": r"\t-\r ",
    "[:upper:]": "A-Z",
    "[:word:]": r"\w",
    "[:xdigit:]": "0-9A-Fa-f",
}

_GO_SET = "|".join(map(re.escape, _GO_SETS))

_GO_RANGE = rf"({_GO_CHAR})(?:-(?!\])({_GO_CHAR})|(?!-[^\]]))"  # "-" is itself only before "]"

_GO_ITEM = rf"(?:({_GO_SET})|(?!\[:.*:\]){_GO_RANGE})"

_GO_CLASS = rf"\[(?:\^|(?!\^)){_GO_ITEM}(?:(?!\]){_GO_ITEM})*\]"  # "]" is itself as the first

_GO_REPEAT = r"\{(0|[1-9][0-9]*)(?:,(0|[1-9][0-9]*)?)?\}"

_GO_TOKEN = rf"(?s:{_GO_CLASS}|{_GO_REPEAT}|{_GO_ESCAPED}|\\[dDsSwWAbBz]|[^\\\[])"


def go_regex(pattern: str) -> str:
    """Replace Docker's wildcards, inside brackets too (moby: Pattern.compile).

    moby means to escape all that is special in a regular expression only, but misses `|{}`. So
    `[0-9]{4}` are four digits, and `a|b*` is what starts with `a` or has a `b` in its last name.
    """

    def replace(found: re.Match[str]) -> str:
        token = found.group()
        if token.startswith("**"):
            return ".*" if found.end() == len(pattern) else "(.*/)?"
        if token in ("*", "?"):
            return "[^/]*" if token == "*" else "[^/]"
        return token if token.startswith("\\") else f"\\{token}"

    pattern = pattern.removeprefix("\ufeff")  # as Go's text/scanner does
    return "^" + re.sub(r"(?s:\\.|\*\*/?|[*?.+()$])", replace, pattern) + "$"


def python_regex(go: str) -> str:
    """Translate what `go_regex` writes, for re.match and re.ASCII. Raises ValueError."""
    tokens = [""]
    position = 0
    while position < len(go):
        token = _prefix(_GO_TOKEN, go[position:])
        if not token:
            raise ValueError(f"no regular expression: {go[position:].removesuffix('$')!r}")
        tokens.append(_python_token(token, previous=tokens[-1]))
        position += len(token)
    return "".join(tokens)


_ALTERNATIVE = "|(?s:.*)"  # each anchor binds to its own branch, and Go searches: re.match does not

_PYTHON_TOKENS = {
    r"\s": r"[\t\n\f\r ]",
    r"\S": r"[\S\v]",
    r"\A": r"(?:^)",  # in a group, so that it can be repeated, as Go allows
    r"^": r"(?:^)",
    r"\b": r"(?:\b)",
    r"\B": r"(?:\B)",
    r"\z": r"(?:\Z)",
    "$": r"\Z",
    "{": r"\{",
    "|": _ALTERNATIVE,
}


def _python_token(token: str, previous: str) -> str:
    if token.startswith("["):
        caret = "^" if token[1] == "^" else ""
        items = re.finditer(f"(?s:{_GO_ITEM})", token[1 + len(caret) : -1])
        return f"[{caret}{''.join(map(_python_item, items))}]"
    if repeat := re.fullmatch(_GO_REPEAT, token):
        if not int(repeat[1]) <= int(repeat[2] or repeat[1]) <= 1000:  # Go's limit
            raise ValueError(f"bad repetition {token!r}")
        if previous in ("*", "?", _ALTERNATIVE) or previous.startswith("{"):
            raise ValueError(f"nothing to repeat before {token!r}")
    return _PYTHON_TOKENS.get(token, token)


def _python_item(item: re.Match[str]) -> str:
    """Translate what stands between brackets: a set, a range, or one character."""
    named, low, high = item.groups()
    if named:
        return _GO_SETS[named]
    if not high:
        return _literal(low)
    try:
        re.compile(f"[{_literal(low)}-{_literal(high)}]")
    except re.error:
        raise ValueError(f"{low}-{high} runs backwards") from None
    return f"{_literal(low)}-{_literal(high)}"


def _literal(char: str) -> str:
    """What is one character for Go is the same for Python, except unescaped between brackets."""
    return char if char.startswith("\\") else re.escape(char)
