"""One ignore pattern, as Go reads it: its syntax check, and its regular expression in Python."""

import re

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
