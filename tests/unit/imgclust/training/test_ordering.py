"""The order in which images are given has no influence on their clusters."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.training.dedupe import find_duplicates
from imgclust.training.fit import FitResult, fit
from imgclust.training.ordering import content_order
from tests.support.fitted import SMALL, grouped

ROWS = np.concatenate([grouped()[0], grouped()[0][:12]])  # some twice
IDS = [f"{i}.png" for i in range(len(ROWS))]


@cache
def shuffled(seed: int) -> tuple[np.ndarray, FitResult]:
    """A fit of the rows in another order; 0: in their own."""
    order = np.random.default_rng(seed).permutation(len(ROWS)) if seed else np.arange(len(ROWS))
    ids = [IDS[row] for row in order]
    return order, fit(ROWS[order], ids=ids, parameters={**SMALL, "refits": 1}, seed=1, max_train=200)


@pytest.mark.parametrize("seed", [1, 2])
def test_another_order_is_the_same_model(seed: int) -> None:
    """Byte for byte, as its version says; and each row has the label that it had."""
    _, first = shuffled(0)
    order, other = shuffled(seed)
    assert other.model.version == first.model.version
    np.testing.assert_array_equal(other.labels, first.labels[order])
    for part in ("train", "test", "rest"):
        np.testing.assert_array_equal(order[getattr(other.split, part)], getattr(first.split, part))
    copies = dict(zip(first.duplicates.duplicate.tolist(), first.duplicates.original.tolist(), strict=True))
    found = zip(order[other.duplicates.duplicate], order[other.duplicates.original], strict=True)
    assert {int(copy): int(kept) for copy, kept in found} == copies


@pytest.mark.parametrize("seed", [0, 1])
def test_results_are_in_the_callers_order(seed: int) -> None:
    """What the result says of rows is said of the rows that were given."""
    order, found = shuffled(seed)
    rows, model = ROWS[order], found.model
    np.testing.assert_array_equal(rows[found.split.train], model.arrays["embeddings"].astype(np.float32))
    np.testing.assert_array_equal(found.labels[found.split.train], model.labels_)
    np.testing.assert_array_equal(found.labels[found.split.test], found.test.labels)
    np.testing.assert_array_equal(
        model.predict(rows[found.split.rest]).labels, found.labels[found.split.rest]
    )
    copies = found.duplicates
    assert (np.diff(copies.duplicate) > 0).all()
    assert (np.diff(copies.kept) > 0).all()
    assert ((rows[copies.duplicate] * rows[copies.original]).sum(axis=1) > 0.98).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_is_a_function_of_what_is_there(kinds: list[int], random: object) -> None:
    """Any permutation, with as many equal rows as there may be, and equal files under several names."""
    rows = np.eye(6, dtype=np.float32)[kinds]
    ids = [f"{i}" for i in range(len(kinds))]
    digests = [None if kind == 0 else f"{kind % 2}" for kind in kinds]
    places = list(range(len(kinds)))
    random.shuffle(places)  # type: ignore[attr-defined]
    once = [ids[row] for row in content_order(rows, ids, digests)]
    moved = [ids[row] for row in places], [digests[row] for row in places]
    again = [moved[0][row] for row in content_order(np.asfortranarray(rows[places]), *moved)]
    assert once == again
    assert sorted(once) == sorted(ids)


def test_of_equal_images_the_shortest_id_is_kept() -> None:
    """So numbers count as numbers do; −0 is 0."""
    rows = np.tile(np.eye(6, dtype=np.float32)[:1], (12, 1))
    rows[3] *= -1
    rows[3, 0] = 1
    ids = [str(i) for i in range(12)][::-1]
    order = content_order(rows, ids)
    assert [ids[row] for row in order] == [str(i) for i in range(12)]
    kept = find_duplicates(rows[order]).renumbered(order)
    assert [ids[row] for row in kept.kept] == ["0"]
