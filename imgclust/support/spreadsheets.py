"""CSV cells that a spreadsheet would run as formulas: guarded when written, taken back when read."""

from __future__ import annotations

FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def _risky(text: str) -> bool:
    bare = text.lstrip("'")
    return bare.startswith(("\t", "\r", "\n")) or bare.lstrip().startswith(FORMULA_STARTS)


def guard(text: str) -> str:
    """Make a text safe to open in a spreadsheet."""
    return f"'{text}" if _risky(text) else text


def unguard(text: str) -> str:
    """What `guard` was given."""
    return text[1:] if text.startswith("'") and _risky(text) else text
