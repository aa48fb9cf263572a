"""What hypothesis makes for several test modules."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from worker.messages.tag import Candidate, Tag
from worker.messages.text import MAX_TIME_MS, MIN_TIME_MS

T = TypeVar("T")


def of_any_length(elements: st.SearchStrategy[T], least: int, most: int) -> st.SearchStrategy[list[T]]:
    """Lists whose lengths are alike in number; of `st.lists` most are short."""
    return st.integers(least, most).flatmap(lambda n: st.lists(elements, min_size=n, max_size=n))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
ATTRIBUTES = st.dictionaries(TEXT, TEXT | st.booleans() | NUMBERS, max_size=3)
MOMENTS = st.integers(MIN_TIME_MS, MAX_TIME_MS)
CANDIDATES = st.builds(Candidate, cluster=st.integers(-1, 99), name=st.none() | TEXT, score=st.floats(0, 1))
TAGS = st.builds(
    Tag,
    id=TEXT.filter(bool),
    cluster=st.integers(-1, 2**31 - 1),
    name=st.none() | TEXT,
    probability=st.floats(0, 1),
    candidates=st.lists(CANDIDATES, max_size=3).map(tuple),
    novel=st.booleans(),
    assigned=st.booleans(),
    model=TEXT,
    taxonomy=TEXT,
    url=st.none() | TEXT,
    uploaded_at=MOMENTS,
    tagged_at=MOMENTS,
    attributes=ATTRIBUTES,
    group=st.none() | st.integers(0, 2**31 - 1),
    from_class=st.booleans(),
)
