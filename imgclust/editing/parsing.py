"""Values of the log of hand edits, read from JSON: nothing in a folder is believed."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgclust.errors import ModelError
from imgclust.types import Floats

MAX_NAME, MAX_WHO = 200, 200  # characters
MAX_DIM = 65_536  # numbers of a vector
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HALF = np.dtype("<f2")


def clean_name(name: str | None) -> str | None:
    """A name as people type it, without spaces around it; empty means none.

    Raises:
        ModelError: too long, or with line breaks or other control characters.
    """
    name = None if name is None else name.strip()
    if name and (len(name) > MAX_NAME or _CONTROL.search(name)):
        raise ModelError(f"a name is one line of at most {MAX_NAME} characters, got {name[:60]!a}")
    return name or None


def number(value: Any) -> int:
    """A cluster's number."""
    if type(value) is not int or not 0 <= value < 2**31 - 1:
        raise ValueError(f"no cluster number: {value}")
    return value


def numbers(values: Any) -> tuple[int, ...]:
    """Different numbers of clusters, one at least."""
    found = tuple(map(number, values))
    if not found or len(set(found)) != len(found):
        raise ValueError("clusters must be different ones")
    return found


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def line(value: Any, longest: int = MAX_WHO) -> str:
    """One line of a text."""
    found = text(value)
    if len(found) > longest or _CONTROL.search(found):
        raise ValueError("a text is too long or not printable")
    return found


def within(value: Any, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    found = float(value)
    if not low <= found <= high:  # not a number, neither
        raise ValueError(f"{found} is not from {low} to {high}")
    return found


def count(value: Any) -> int:
    """How many: 0 or more."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"no count: {value}")
    return value


def as_half(row: Floats) -> bytes:
    """A vector as the log keeps it: float16, little-endian; what is of length 1 is rounded once."""
    return row.astype(_HALF).tobytes()


def from_half(vectors: Sequence[bytes]) -> Floats:
    """float32 (m, d): vectors of the log, all of one width."""
    return np.stack([np.frombuffer(vector, _HALF) for vector in vectors]).astype(np.float32)


def vector_text(vector: bytes) -> str:
    """As JSON has it."""
    return base64.b64encode(vector).decode()


def vector(value: Any) -> bytes:
    """A vector of length 1, as `vector_text` wrote it."""
    data = base64.b64decode(text(value), validate=True)
    if not data or len(data) % _HALF.itemsize or len(data) > _HALF.itemsize * MAX_DIM:
        raise ValueError("no vector")
    length = float(np.linalg.norm(np.frombuffer(data, _HALF).astype(np.float64)))
    if not math.isclose(length, 1, abs_tol=0.01):
        raise ValueError("a vector must be of length 1")
    return data
