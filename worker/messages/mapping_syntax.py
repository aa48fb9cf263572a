"""The syntax of WORKER_UPLOADS_MAP: which field of an upload is found where in an event."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import NoReturn

FIELDS = ("id", "url", "uploaded_at", "deleted", "attributes")


KEY, TIMESTAMP = "$key", "$timestamp"


class MapError(ValueError):
    """The text of a map is wrong; says where."""


@dataclasses.dataclass(frozen=True, slots=True)
class Path:
    """Where a value is: the root ('' for the event, `$key`, `$timestamp`) and the steps from there."""

    root: str
    steps: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """A text with values in it: constants and paths, in their order."""

    parts: tuple[str | Path, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class FieldSource:
    """Alternatives, of which the first with a value counts; with `equals`, whether it is one of those."""

    alternatives: tuple[Path | Text, ...]
    equals: tuple[str, ...] | None = None


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<name>\$?[A-Za-z0-9_-]+) | "(?P<quoted>[^"]+)" | '(?P<text>[^']*)' | (?P<sign>==|[=|.,])
    )""",
    re.VERBOSE,
)


_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class _Tokens:
    """The tokens of a map's text, with one to look ahead."""

    def __init__(self, text: str) -> None:
        self._all = list(self._split(text))
        self._at = 0

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise MapError(f"{text[at:].strip()[:20]!r} is not understood")
            kind = found.lastgroup or ""
            yield kind, found[kind]
            at = found.end()

    @property
    def next(self) -> tuple[str, str]:
        return self._all[self._at] if self._at < len(self._all) else ("end", "")

    def take(self, *kinds: str) -> str | None:
        """The next token if it is of one of these kinds, or this sign."""
        kind, text = self.next
        if kind in kinds or (kind == "sign" and text in kinds):
            self._at += 1
            return text
        return None

    def must(self, what: str, *kinds: str) -> str:
        found = self.take(*kinds)
        return self.fail(what) if found is None else found

    def fail(self, what: str) -> NoReturn:
        kind, text = self.next
        raise MapError(f"{what} is missing before {'the end' if kind == 'end' else repr(text)}")


def parse_map(text: str) -> dict[str, FieldSource]:
    """Field → source; `attributes.lang` is a field of its own.

    Raises:
        MapError: what is wrong with the text.
    """
    tokens = _Tokens(text)
    found: dict[str, FieldSource] = {}
    while tokens.next[0] != "end":
        field = _field(tokens)
        if field in found:
            raise MapError(f"{field} is there twice")
        tokens.must(f"'=' after {field}", "=")
        found[field] = source = _source(tokens, field)
        for path in paths(source):
            if path.root == KEY and field != "id":
                raise MapError(f"{field} is taken from {KEY}, which only id can be: a retry has another key")
        if tokens.take(",") is None and tokens.next[0] != "end":
            tokens.fail("','")
    if not found:
        raise MapError("it is empty")
    return found


def _field(tokens: _Tokens) -> str:
    name = tokens.must("a field", "name")
    if name not in FIELDS:
        raise MapError(f"{name!r} is not a field of an upload: {', '.join(FIELDS)}, attributes.<name>")
    if name == "attributes" and tokens.take(".") is not None:
        return f"attributes.{tokens.must('the name of the attribute', 'name', 'quoted')}"
    return name


def _source(tokens: _Tokens, field: str) -> FieldSource:
    alternatives = [_alternative(tokens, field)]
    while tokens.take("|") is not None:
        alternatives.append(_alternative(tokens, field))
    if tokens.take("==") is None:
        return FieldSource(tuple(alternatives))
    if field != "deleted":
        raise MapError(f"{field} cannot be a comparison, only deleted can")
    equals = [tokens.must("a value after '=='", "name", "text")]
    while tokens.take("|") is not None:
        equals.append(tokens.must("a value after '|'", "name", "text"))
    return FieldSource(tuple(alternatives), tuple(equals))


def _alternative(tokens: _Tokens, field: str) -> Path | Text:
    text = tokens.take("text")
    if text is not None:
        return _text(text)
    return _path(tokens, field)


def _path(tokens: _Tokens, field: str) -> Path:
    first = tokens.must(f"a path or a text for {field}", "name", "quoted")
    root = ""
    if first.startswith("$"):
        if first not in (KEY, TIMESTAMP):
            raise MapError(f"{first} is not known; there are {KEY} and {TIMESTAMP}")
        root, steps = first, []
    else:
        steps = [first]
    while tokens.take(".") is not None:
        steps.append(tokens.must("a name after '.'", "name", "quoted"))
    return Path(root, tuple(steps))


def _text(text: str) -> Text:
    parts: list[str | Path] = []
    at = 0
    for found in _PLACEHOLDER.finditer(text):
        parts.append(text[at : found.start()])
        at = found.end()
        if found[0] in ("{{", "}}"):
            parts.append(found[0][0])
        elif found[1] is None:
            raise MapError(f"a single {found[0]!r} in {text!r}; double it to use it literally")
        else:
            inner = _Tokens(found[1])
            parts.append(_path(inner, "{}"))
            if inner.next[0] != "end":
                inner.fail("'}'")
    return Text(tuple(part for part in (*parts, text[at:]) if part != ""))


def paths(source: FieldSource) -> Iterator[Path]:
    for alternative in source.alternatives:
        if isinstance(alternative, Path):
            yield alternative
        else:
            yield from (part for part in alternative.parts if isinstance(part, Path))
