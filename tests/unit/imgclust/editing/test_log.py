"""The record of hand edits: what is written is read, what was not written so is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.editing.classes import AddClass, ClassRule, Measured, RemoveClass
from imgclust.editing.golden import AddGolden, RemoveGolden
from imgclust.editing.log import Drop, Edit, Merge, Part, Rename, Split, Undo, describe
from imgclust.editing.parsing import as_half, clean_name, vector_text
from imgclust.errors import ModelError

numbers = st.integers(0, 2**31 - 2)
some = st.lists(numbers, min_size=1, max_size=4, unique=True).map(tuple)
names = st.none() | st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=20)
anchors = st.lists(
    st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=1, max_size=3
).map(tuple)
lines = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=20)
vectors = st.integers(0, 7).map(lambda axis: as_half(np.eye(8, dtype=np.float32)[axis]))
shares = st.floats(0, 1)
counts = st.integers(0, 2**40)
rules = st.builds(
    ClassRule,
    st.lists(vectors, min_size=1, max_size=3).map(tuple),
    st.floats(-1, 1),
    st.builds(Measured, st.floats(0.5, 1), shares, shares, counts, counts, st.booleans()),
    st.none() | lines,
)
changes = st.one_of(
    st.builds(Rename, st.dictionaries(numbers, names, min_size=1, max_size=3)),
    st.builds(Merge, numbers, some),
    st.builds(Split, numbers, st.lists(st.builds(Part, numbers, anchors), min_size=2, max_size=3).map(tuple)),
    st.builds(Drop, some),
    st.builds(AddClass, numbers, names.filter(bool), rules),
    st.builds(RemoveClass, numbers),
    st.builds(AddGolden, lines, vectors, some, st.booleans()),
    st.builds(RemoveGolden, lines),
    st.just(Undo()),
)


UNIT = as_half(np.array([1, 0], np.float32))
CLASS = AddClass(1, "x", ClassRule((UNIT,), 0.5, Measured(0.9, 1, 1, 5, 5, True))).to_dict()


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
        {"op": ["class"]},
        {"op": "class", "cluster": 1, "name": "x", "vectors": []},
        {"op": "golden", "image": "a", "vector": "AAAA", "clusters": [1], "never": False},
        {"op": "golden", "image": "a", "vector": "?", "clusters": [1], "never": False},
        {"op": "golden", "image": "a\nb", "vector": vector_text(UNIT), "clusters": [1], "never": False},
        {"op": "golden", "image": "a", "vector": vector_text(UNIT), "clusters": [], "never": False},
        {"op": "golden", "image": "a", "vector": vector_text(UNIT), "clusters": [-2], "never": False},
        *({**CLASS, **wrong} for wrong in (
            {"name": " "}, {"threshold": float("nan")}, {"threshold": 2},
            {"vectors": [vector_text(UNIT)] * 65},
            {"vectors": [vector_text(UNIT), vector_text(UNIT[:2])]}, {"cluster": -1}, {"phrase": "a\nb"},
            {"measured": {}}, {"measured": {**CLASS["measured"], "wanted": 0.1}},
        )),
        {},
    ],
)  # fmt: skip
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
