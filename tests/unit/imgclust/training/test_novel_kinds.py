"""What shows something new has its like near, and nothing that the previous model knows between them."""

from __future__ import annotations

import numpy as np
import pytest

from imgclust.training.novel_kinds import kinds_not_seen

DIM = 24


def pictures(kinds: int, each: int, seed: int) -> np.ndarray:
    """Unit-norm rows around the first so many directions, sorted by kind."""
    centres = np.random.default_rng(9).normal(size=(12, DIM))[:kinds]
    rows = np.repeat(centres, each, axis=0) + 0.6 * np.random.default_rng(seed).normal(
        size=(kinds * each, DIM)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def judged(old: np.ndarray, new: np.ndarray, neighbours: int = 14) -> np.ndarray:
    among = new @ new.T
    np.fill_diagonal(among, -1)
    nearest = np.argsort(-among, axis=1)[:, :neighbours]
    cosines = np.take_along_axis(among, nearest, axis=1)
    return kinds_not_seen((new @ old.T).max(axis=1), nearest, cosines, len(old))


@pytest.mark.parametrize("each", [20, 50, 120])
def test_few_of_the_same_kinds_are_new(each: int) -> None:
    """About one in twenty, however many images there are for each of the previous model's."""
    assert judged(pictures(6, 50, 1), pictures(6, each, 2)).mean() < 0.1


def test_a_kind_that_was_not_there_is_new() -> None:
    """Nearly all of it, and hardly anything else."""
    found = judged(pictures(6, 50, 1), pictures(7, 50, 2)).reshape(7, 50).mean(axis=1)
    assert found[6] > 0.9
    assert found[:6].mean() < 0.1


def test_pictures_that_were_there_are_not_new() -> None:
    old = pictures(6, 50, 1)
    assert not judged(old, old).any()
    assert not judged(old, np.concatenate([old, pictures(7, 50, 2)]))[:300].any()


def test_nothing_is_new_where_there_was_hardly_anything() -> None:
    """Among ten times as many images, all of those around an image are new ones, whatever it shows."""
    assert not judged(pictures(6, 10, 1), pictures(7, 100, 2)).any()
