"""imgclust.embedding.encode_ahead: two batches are on their way, and what fails is encoded alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.embedding.encode_ahead import EncodeAhead
from imgclust.types import Floats
from tests.support.ahead_encoder import AheadEncoder
from tests.support.fake_encoder import SIDE, brightness_of


@settings(deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 150), max_size=6), max_size=12),
    bad=st.sets(st.integers(0, 150)),
    most=st.integers(1, 6),
)
def test_every_picture_ends_once(batches: list[list[int]], bad: set[int], most: int) -> None:
    """Whatever comes and whatever fails, each picture is encoded or handed over to be encoded alone, from
    memory that nobody has written to meanwhile."""
    pictures = [value for batch in batches for value in batch]
    memory = np.array(pictures, np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8)
    numbers = iter(range(len(pictures)))
    waiting: list[list[int] | None] = [[n for _, n in zip(batch, numbers)] for batch in batches]  # noqa: B905
    waiting.append(None)
    encoder = AheadEncoder(most, frozenset(bad))
    done: dict[int, float] = {}

    def end(number: int, value: float) -> None:
        assert number not in done
        done[number] = value
        memory[number] = 255

    def alone(batch: list[int]) -> None:
        assert not encoder.under_way
        for number in batch:
            end(number, float(memory[number].mean()))

    def encoded(batch: list[int], rows: Floats, _: float) -> None:
        for number, value in zip(batch, brightness_of(rows).tolist(), strict=True):
            end(number, value)

    EncodeAhead[int](encoder, picture=lambda number: memory[number], encoded=encoded, alone=alone).run(
        lambda _: waiting.pop(0)
    )
    assert done == dict(enumerate(pictures))
    assert encoder.deepest <= 2
