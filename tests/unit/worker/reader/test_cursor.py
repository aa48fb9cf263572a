"""Cursors: what goes through a client comes back as it was, or is refused."""

from __future__ import annotations

import base64

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.messages.tag import TAXONOMY
from worker.reader.cursor import MAX_CURSOR_CHARS, Cursor, Place, Selection

NUMBERS = st.integers(-1, 2**31 - 1)


@given(
    st.from_regex(TAXONOMY, fullmatch=True),
    st.one_of(NUMBERS, st.none(), st.lists(NUMBERS, max_size=50)),
    st.lists(NUMBERS, max_size=50),
    st.integers(-(2**53), 2**53),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256),
)
def test_a_cursor_comes_back_as_it_was(
    taxonomy: str, clusters: int | list[int] | None, without: list[int], score: int, member: str
) -> None:
    """Any place survives the way through a client's URL; the text needs no escaping there."""
    cursor = Cursor(taxonomy, Selection.of(clusters, without), Place(score, member.encode()))
    text = cursor.encode()
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert Cursor.decode(text) == cursor


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "!!!",
        "ä",
        "A" * 10_000,
        None,
        7,
        _encoded([]),
        _encoded({"a": 1}),
        _encoded([1, "t", 3, 5]),
        _encoded([2, "t", 3, 5, "id"]),
        _encoded([1, "t", 3, 5.5, "id"]),
        _encoded([1, "t", "3", 5, "id"]),
        _encoded([1, "t:x", 3, 5, "id"]),
        _encoded([1, "t", True, 5, "id"]),
        _encoded([1, "t", 3, 5, "i" * 257]),
        _encoded([1, "t", 3, 5, None]),
        _encoded([1, "t", -2, 5, "id"]),
        _encoded([1, "t", [3], 5, "id"]),
        _encoded([1, "t", [[3], 4], 5, "id"]),
        _encoded([1, "t", [[3], [True]], 5, "id"]),
        _encoded([1, "t", [{"a": 1}, []], 5, "id"]),
        _encoded([1, "t", [list(range(101)), []], 5, "id"]),
    ],
)
def test_a_forged_cursor_is_refused(text: str) -> None:
    """A cursor comes back from outside: what was not made here is a ValueError that says what to do."""
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.decode(text)


@given(st.text(max_size=200))
def test_any_text_is_a_cursor_or_a_value_error(text: str) -> None:
    """No text raises anything else."""
    try:
        cursor = Cursor.decode(text)
    except ValueError:
        return
    assert Cursor.decode(cursor.encode()) == cursor


def test_the_longest_question_fits_into_a_cursor() -> None:
    """A hundred clusters of ten digits and an id of 256 wide characters can be asked for again."""
    clusters = [2**31 - 1 - n for n in range(100)]
    text = Cursor("t" * 64, Selection.of(clusters), Place(2**53, ("\U0001f600" * 256).encode())).encode()
    assert len(text) <= MAX_CURSOR_CHARS
    assert Cursor.decode(text).selection == Selection.of(clusters)


@pytest.mark.parametrize("clusters", [-2, 2**31, [1, -5], ["3"], [True], range(101)])
def test_what_are_no_clusters_is_refused(clusters: object) -> None:
    """Numbers from -1 on, at most a hundred of them."""
    with pytest.raises(ValueError, match="cluster"):
        Selection.of(clusters)  # type: ignore[arg-type]
