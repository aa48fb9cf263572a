"""Compact tags: what is kept comes back, what is no compact tag is a ValueError."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import TAGS
from worker.messages.compact import is_compact, pack, unpack
from worker.messages.tag import Candidate, Tag


@given(TAGS)
def test_a_tag_comes_back_but_for_what_is_left_out(tag: Tag) -> None:
    """Everything but URL and attributes, with names from the table and numbers within half a step."""
    names = {c.cluster: c.name for c in tag.candidates} | {tag.cluster: tag.name}
    packed = pack(tag)
    assert is_compact(packed)
    assert not is_compact(tag.to_json())
    found = unpack(packed, tag.id, tag.taxonomy, tag.cluster, names)
    assert found.probability == pytest.approx(tag.probability, abs=1 / 131_000)
    assert [c.score for c in found.candidates] == pytest.approx(
        [c.score for c in tag.candidates], abs=1 / 131_000
    )
    expected = dataclasses.replace(
        tag,
        url=None,
        attributes={},
        probability=found.probability,
        candidates=tuple(
            Candidate(c.cluster, names[c.cluster], its.score)
            for c, its in zip(tag.candidates, found.candidates, strict=True)
        ),
        model=found.model,
    )
    assert found == expected
    assert tag.model.startswith(found.model)
    assert found.model == tag.model or len(tag.model.encode()) > 250


def test_an_ordinary_tag_takes_fifty_bytes() -> None:
    """Three candidates, and a model's version of twelve hex digits."""
    candidates = tuple(Candidate(n, "food", 0.25) for n in range(3))
    tag = Tag("a", 1, "food", 0.5, candidates, False, "d4833586c6cf", "d4833586c6cf", "https://x/", 1, 2, {})
    assert len(pack(tag)) <= 50


@given(st.binary(max_size=80))
def test_any_bytes_are_a_tag_or_a_value_error(data: bytes) -> None:
    """What something else wrote into Redis stops no reader."""
    for tried in (data, b"\x01" + data):
        try:
            found = unpack(tried, "a", "t", 1, {})
        except ValueError:
            continue
        assert found.id == "a"


@given(TAGS, st.integers(0, 20))
def test_what_was_cut_off_is_refused(tag: Tag, length: int) -> None:
    """Half a head is no tag."""
    with pytest.raises(ValueError, match="not a compact tag"):
        unpack(pack(tag)[:length], "a", "t", 1, {})
