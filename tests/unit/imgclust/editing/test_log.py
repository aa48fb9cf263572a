"""The record of hand edits: what is written is read, what was not written so is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.editing.log import Drop, Edit, Merge, Part, Rename, Split, Undo, clean_name, describe
from imgclust.errors import ModelError

numbers = st.integers(0, 2**31 - 2)
some = st.lists(numbers, min_size=1, max_size=4, unique=True).map(tuple)
names = st.none() | st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=20)
anchors = st.lists(
    st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=1, max_size=3
).map(tuple)
changes = st.one_of(
    st.builds(Rename, st.dictionaries(numbers, names, min_size=1, max_size=3)),
    st.builds(Merge, numbers, some),
    st.builds(Split, numbers, st.lists(st.builds(Part, numbers, anchors), min_size=2, max_size=3).map(tuple)),
    st.builds(Drop, some),
    st.just(Undo()),
)


@given(changes, st.booleans())
def test_written_and_read(change: Any, carried: bool) -> None:
    """Through JSON and back: equal, to the bit of an anchor; and described in one line."""
    edit = Edit(change, "anna", "2026-11-28T10:00:00Z", "0" * 12, carried)
    assert Edit.from_dict(orjson.loads(orjson.dumps(edit.to_dict()))) == edit
    assert "\n" not in describe(change)


@pytest.mark.parametrize(
    "change",
    [
        {"op": "explode"},
        {"op": "merge", "into": 1, "clusters": []},
        {"op": "merge", "into": True, "clusters": [2]},
        {"op": "merge", "into": 1, "clusters": [2, 2]},
        {"op": "drop", "clusters": [-1]},
        {"op": "drop", "clusters": [2**40]},
        {"op": "rename", "names": []},
        {"op": "rename", "names": [[1, "two\nlines"]]},
        {"op": "rename", "names": [[1, 2]]},
        {"op": "split", "cluster": 1, "parts": [{"cluster": 2, "anchors": [[0.0]]}]},
        {"op": "split", "cluster": 1, "parts": [{"cluster": c, "anchors": [[float("nan")]]} for c in (2, 3)]},
        {"op": "split", "cluster": 1, "parts": [{"cluster": c, "anchors": [[0], [0, 1]]} for c in (2, 3)]},
        {"op": "split", "cluster": 1, "parts": 5},
        {},
    ],
)
def test_what_no_editor_writes_is_refused(change: dict[str, Any]) -> None:
    """A model folder may come from anywhere: nothing in its log is believed."""
    with pytest.raises(ModelError, match="record of hand edits is damaged"):
        Edit.from_dict({"who": "x", "when": "y", "on": "z", **change})


def test_names_are_one_line() -> None:
    assert clean_name("  food ") == "food"
    assert clean_name("  ") is None
    assert clean_name(None) is None
    for wrong in ("a\nb", "a" * 201, "a\u2028b"):
        with pytest.raises(ModelError, match="one line"):
            clean_name(wrong)
