"""Names of clusters."""

from __future__ import annotations

import numpy as np
import pytest

from imgclust.naming.nearest import name_clusters

DIM = 64
rng = np.random.default_rng(3)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


PHRASES = [f"phrase {i}" for i in range(50)]
# phrases share a corner of the space, clusters another one, as pictures and sentences do
TEXT_CORNER, IMAGE_CORNER = unit(rng.normal(size=(2, DIM)))
MEANINGS = unit(rng.normal(size=(50, DIM)))
VECTORS = unit(3 * TEXT_CORNER + MEANINGS)


def clusters(*meanings: np.ndarray) -> np.ndarray:
    return unit(3 * IMAGE_CORNER + np.stack(meanings))


def test_the_nearest_phrase_names_a_cluster() -> None:
    """A name is found across the gap between the corners of pictures and phrases."""
    centres = clusters(MEANINGS[4], MEANINGS[11], MEANINGS[30], MEANINGS[42])
    assert name_clusters(centres, PHRASES, VECTORS) == ["phrase 4", "phrase 11", "phrase 30", "phrase 42"]


def test_no_name_rather_than_a_wrong_one() -> None:
    """A cluster that no phrase means stays without a name; the others keep theirs."""
    spare = rng.normal(size=DIM)
    spare -= np.linalg.lstsq(MEANINGS.T, spare, rcond=None)[0] @ MEANINGS * 0.9
    centres = clusters(MEANINGS[4], unit(spare), MEANINGS[30], MEANINGS[42])
    names = name_clusters(centres, PHRASES, VECTORS)
    assert names[1] is None
    assert names[0] == "phrase 4"


def test_noise_gets_no_names() -> None:
    """Random directions are named in hardly any case, though some phrase is always the nearest."""
    noise = clusters(*unit(rng.normal(size=(200, DIM))))
    named = [name for name in name_clusters(noise, PHRASES, VECTORS) if name]
    assert len(named) <= 20


def test_names_are_distinct() -> None:
    """One name goes to the cluster that it fits best; the other one has to do without."""
    close, wide = MEANINGS[4], unit(MEANINGS[4] + 0.9 * unit(rng.normal(size=DIM)))
    names = name_clusters(clusters(wide, close, MEANINGS[30], MEANINGS[42]), PHRASES, VECTORS)
    assert names[1] == "phrase 4"
    assert names[0] != "phrase 4"


@pytest.mark.parametrize(("k", "m"), [(0, 5), (1, 5), (3, 0), (3, 1)])
def test_too_little_to_compare(k: int, m: int) -> None:
    """With one cluster or one phrase nothing stands out, so nothing is named."""
    assert (
        name_clusters(
            clusters(*MEANINGS[:k]) if k else np.empty((0, DIM), np.float32), PHRASES[:m], VECTORS[:m]
        )
        == [None] * k
    )


def test_known_names_are_tested_again() -> None:
    """A name from the vocabulary that has become wrong is dropped, and given to the cluster that it fits; one
    that is not in the vocabulary was given by a person, and stays."""
    phrases, vectors = tuple("abcdef"), np.eye(6, dtype=np.float32)
    centres = vectors[:4] + 0.1
    named = name_clusters(centres, phrases, vectors, known=["a", "c", None, "by hand"])
    assert named == ["a", "b", "c", "by hand"]
