"""Paths ⇄ text that can be stored: one way there and back for file names that are not UTF-8.

Python reads such a name's bytes as lone surrogates, which neither Parquet, JSON nor a terminal takes. In text
they are written `\udce4` (a backslash and five characters), and a backslash that would be read so is written
`\u005c`. Every other name is its own text.
"""

from __future__ import annotations

import re

_BYTE = re.compile("[\ud800-\udfff]")
_WRITTEN = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")
_AMBIGUOUS = re.compile(r"\\(?=u(?:d[89a-f][0-9a-f]{2}|005c))")


def to_text(path: str) -> str:
    """A path, as the system names it, as text without lone surrogates."""
    if path.isascii() and "\\" not in path:
        return path
    return _BYTE.sub(lambda found: f"\\u{ord(found[0]):04x}", _AMBIGUOUS.sub(r"\\u005c", path))


def is_sound(text: str) -> bool:
    """Whether a text can be stored as it is: it holds no lone surrogates."""
    return text.isascii() or _BYTE.search(text) is None


def storable(text: str) -> str:
    """A text as it is, or as `to_text` writes it where it cannot be stored; what is text already stays so."""
    return text if is_sound(text) else to_text(text)


def from_text(text: str) -> str:
    """The path that `to_text` was given."""
    return _WRITTEN.sub(lambda found: chr(int(found[1], 16)), text) if "\\" in text else text
