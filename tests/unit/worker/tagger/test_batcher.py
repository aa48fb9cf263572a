"""worker.tagger.batcher: items → batches, by size or age."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tagger.batcher import Batcher


@given(st.integers(1, 8), st.floats(0, 5), st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=60))
def test_nothing_is_lost_reordered_or_late(size: int, wait: float, steps: list[tuple[float, bool]]) -> None:
    """For any arrivals and any times of asking: batches hold the items in order, none is larger than allowed,
    and an item never stays behind once its time is over."""
    batcher: Batcher[int] = Batcher(size, wait)
    now, added, taken = 0.0, [], []
    for pause, add in steps:
        now += pause
        if add:
            batcher.add(len(added), now)
            added.append(now)
        while batch := batcher.take(now):
            assert len(batch) <= size
            taken += batch
        assert taken == list(range(len(taken)))
        left = added[len(taken) :]
        assert len(left) == len(batcher) < size
        assert all(now < since + wait for since in left)


def test_a_full_batch_leaves_at_once_and_a_part_when_its_first_item_waited() -> None:
    """Full: no waiting. Not full: exactly when the oldest item has waited `max_wait`."""
    batcher: Batcher[str] = Batcher(2, 1.0)
    assert batcher.wait(0) is None
    batcher.add("a", 0.0)
    assert batcher.take(0.5) == []
    assert batcher.wait(0.5) == 0.5
    batcher.add("b", 0.6)
    assert batcher.wait(0.6) == 0
    assert batcher.take(0.6) == ["a", "b"]
    batcher.add("c", 1.0)
    assert batcher.take(1.9) == []
    assert batcher.take(2.0) == ["c"]


@pytest.mark.parametrize(("size", "wait"), [(0, 1.0), (1, -0.1)])
def test_senseless_limits_are_refused(size: int, wait: float) -> None:
    """A batch of nothing or a wait in the past is an error that names the values."""
    with pytest.raises(ValueError, match="max_size must be >= 1"):
        Batcher(size, wait)
