"""Exact and near duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.training import dedupe
from imgclust.training.dedupe import Duplicates, find_duplicates


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.radians(np.asarray(degrees))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def by_definition(rows: np.ndarray, threshold: float) -> list[int]:
    """What each row joins, one comparison after another."""
    owners: list[int] = []
    for i, row in enumerate(rows):
        kept = [j for j in range(i) if owners[j] == j]
        cosines = [float(row @ rows[j]) for j in kept]
        near = [(-c, j) for c, j in zip(cosines, kept, strict=True) if c >= threshold]
        owners.append(min(near)[1] if near else i)
    return owners


def test_a_near_copy_joins_the_first() -> None:
    """A row within the threshold is left out, listed with the kept row and their cosine."""
    found = find_duplicates(at_angles(0, 90, 1), threshold=0.99)
    assert found.kept.tolist() == [0, 1]
    assert found.duplicate.tolist() == [2]
    assert found.original.tolist() == [0]
    assert found.cosine[0] == pytest.approx(np.cos(np.radians(1)), abs=1e-6)
    assert not found.exact[0]


def test_no_chains() -> None:
    """Small steps do not add up: what is near a duplicate but not near its original is kept."""
    found = find_duplicates(at_angles(0, 4, 8, 12), threshold=np.cos(np.radians(5)))
    assert found.kept.tolist() == [0, 2]
    assert found.original.tolist() == [0, 2]


def test_a_duplicate_joins_the_nearest_kept_image() -> None:
    """Between two kept images, the nearer one is the original."""
    found = find_duplicates(at_angles(0, 8, 5), threshold=np.cos(np.radians(6)))
    assert found.kept.tolist() == [0, 1]
    assert found.original.tolist() == [1]


def test_equal_files_join_whatever_their_embeddings() -> None:
    """A digest that was met before is enough, and follows its image to where that one went."""
    rows = at_angles(0, 1, 90, 1)
    found = find_duplicates(rows, ["a", "b", "c", "b"], threshold=0.99)
    assert found.kept.tolist() == [0, 2]
    assert found.original.tolist() == [0, 0]
    assert found.exact.tolist() == [False, True]


def test_unknown_digests_are_not_equal() -> None:
    """Images whose digest is not known are not duplicates of each other."""
    assert len(find_duplicates(at_angles(0, 90), [None, None])) == 0
    assert len(find_duplicates(at_angles(0, 90), ["", ""])) == 0


def test_only_digests_count_above_one() -> None:
    """A threshold above 1 switches the comparison of embeddings off."""
    found = find_duplicates(at_angles(0, 0, 0), ["a", "b", "a"], threshold=1.1)
    assert found.kept.tolist() == [0, 1]


def test_representatives() -> None:
    """Every row knows the kept row that stands for it."""
    found = find_duplicates(at_angles(0, 1, 90, 91), threshold=0.99)
    assert found.representative().tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("threshold", [0.0, -0.5, float("nan")])
def test_a_threshold_that_means_nothing_is_refused(threshold: float) -> None:
    """A threshold at or below 0 would join unrelated pictures."""
    with pytest.raises(ValueError, match="threshold"):
        find_duplicates(at_angles(0, 90), threshold=threshold)


def test_nothing_to_compare() -> None:
    """No rows: nothing kept, nothing left out."""
    found = find_duplicates(np.empty((0, 3), np.float32))
    assert len(found) == 0
    assert len(found.kept) == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 40), block=st.integers(1, 12), spread=st.floats(0.01, 1.0)
)
def test_blocks_change_nothing(seed: int, n: int, block: int, spread: float) -> None:
    """Whatever the size of a block, the result is that of comparing one row after another."""
    rng = np.random.default_rng(seed)
    rows = unit(rng.normal(size=(1, 4)) + spread * rng.normal(size=(n, 4)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedupe, "BLOCK", block)
        found = find_duplicates(rows, threshold=0.95)
    assert_is_deduplication(found, rows, 0.95)
    assert found.representative().tolist() == by_definition(rows, 0.95)


@pytest.mark.parametrize("cosine", [0.999, dedupe.NEAR + 0.0002])
def test_cells_find_what_all_pairs_find(cosine: float) -> None:
    """Beyond the limit of all pairs, at least 99 % of the near duplicates are still found, none wrongly.

    Those at the threshold, too.
    """
    rng = np.random.default_rng(7)
    spread = rng.normal(size=(40, 1, 16)) + 0.5 * rng.normal(size=(40, 50, 16))
    originals = unit(spread.reshape(-1, 16))
    aside = rng.normal(size=(500, 16))
    aside -= (aside * originals[::4]).sum(axis=1, keepdims=True) * originals[::4]
    copies = unit(cosine * originals[::4] + (1 - cosine**2) ** 0.5 * unit(aside))
    rows = np.concatenate([originals, copies])[rng.permutation(2500)]
    exact = find_duplicates(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedupe, "ALL_PAIRS", 100)
        patch.setattr(dedupe, "BLOCK", 128)
        found = find_duplicates(rows)
        again = find_duplicates(rows)
    assert_is_deduplication(found, rows, dedupe.NEAR)
    assert len(exact) >= 500
    assert len(set(found.duplicate) & set(exact.duplicate)) >= 0.99 * len(exact)
    np.testing.assert_array_equal(found.representative(), again.representative())


def assert_is_deduplication(found: Duplicates, rows: np.ndarray, threshold: float) -> None:
    assert sorted([*found.kept, *found.duplicate]) == list(range(len(rows)))
    assert set(found.original) <= set(found.kept)
    if len(found):
        cosine = np.einsum("ij,ij->i", rows[found.duplicate], rows[found.original])
        np.testing.assert_allclose(found.cosine, cosine, atol=1e-5)
        assert (cosine >= threshold - 1e-5).all()
