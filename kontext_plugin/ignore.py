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
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import dropwhile, groupby
from typing import NamedTuple

from kontext_plugin.errors import KontextError
from kontext_plugin.ignore_syntax import check_syntax, go_regex, python_regex

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


def parse(text: str, source: str) -> IgnoreRules:
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
