"""Classes before clusters: the same for a row whatever comes with it, and a prediction stays one."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imgclust.predictor.class_rules import ClassRules
from imgclust.types import Prediction
from tests.support.frozen_pair import unit_half

DIM = 48


def rules(seed: int, counts: tuple[int, ...] = (3, 1, 5), threshold: float = 0.1) -> ClassRules:
    """Classes 40, 41, …, of as many vectors as are asked for."""
    vectors = unit_half(np.random.default_rng(seed).normal(size=(sum(counts), DIM)))
    return ClassRules(
        np.arange(40, 40 + len(counts), dtype=np.int32),
        np.ascontiguousarray(vectors.astype(np.float64).T),
        np.cumsum([0, *counts[:-1]]).astype(np.int64),
        np.full(len(counts), threshold),
        np.linspace(0.5, 1, len(counts)).astype(np.float32),
    )


def rows(n: int, seed: int) -> np.ndarray:
    return unit_half(np.random.default_rng(seed + 1000).normal(size=(n, DIM)))


def of_clusters(n: int, seed: int) -> Prediction:
    """Any prediction: labels, three candidates whose scores add up to at most 1, some of them missing."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.dirichlet(np.ones(4), n)[:, :3], axis=1).astype(np.float32)
    candidates = np.stack([rng.permutation(9)[:3] for _ in range(n)]).astype(np.int32)
    missing = np.arange(3) >= rng.integers(0, 4, n)[:, None]
    candidates[missing], scores[missing] = -1, 0
    return Prediction(
        labels=np.where(rng.random(n) < 0.3, -1, candidates[:, 0]).astype(np.int32),
        probabilities=scores[:, 0],
        points=rng.normal(size=(n, 3)).astype(np.float32),
        novel=rng.random(n) < 0.5,
        candidates=candidates,
        scores=scores,
        similarities=rng.random(n).astype(np.float32),
        assigned=rng.random(n) < 0.5,
    )


@given(st.integers(0, 99), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_row_does_not_depend_on_its_batch(seed: int, sizes: list[int]) -> None:
    """In batches of any sizes, alone and with the classes' vectors in another order of summation: every bit
    is the same."""
    images, found = rows(sum(sizes), seed), of_clusters(sum(sizes), seed)
    whole = rules(seed).apply(found, images)
    ends = np.cumsum(sizes)
    parts = []
    for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        own = {f.name: getattr(found, f.name)[start:end] for f in dataclasses.fields(Prediction)}
        parts.append(rules(seed).apply(Prediction(**own), images[start:end]))
    again = Prediction.concat(parts)
    for field in dataclasses.fields(Prediction):
        assert getattr(again, field.name).tobytes() == getattr(whole, field.name).tobytes()
    order = np.random.default_rng(seed).permutation(DIM)
    shuffled = dataclasses.replace(rules(seed), vectors=rules(seed).vectors[order])
    assert np.array_equal(shuffled.decide(images[:, order]), rules(seed).decide(images))


def test_cosines_are_exact() -> None:
    """As integers of 2^-48, added up without any rounding: a threshold is met to the last bit."""
    images = rows(20, 3)
    vectors = unit_half(np.random.default_rng(4).normal(size=(1, DIM)))
    steps = [[int(v * 2**24) for v in row] for row in images.tolist()]
    own = [int(v * 2**24) for v in vectors[0].tolist()]
    exact = [sum(a * b for a, b in zip(row, own, strict=True)) / 2**48 for row in steps]
    for row, cosine in enumerate(exact):
        at = dataclasses.replace(
            rules(0, (1,)), vectors=vectors.astype(np.float64).T, thresholds=np.array([cosine])
        )
        above = dataclasses.replace(at, thresholds=np.array([np.nextafter(cosine, 2)]))
        assert at.decide(images[row : row + 1]).tolist() == [0]
        assert above.decide(images[row : row + 1]).tolist() == [-1]


def test_the_class_that_was_added_first_wins() -> None:
    """However much nearer another one is; and a new class takes nothing from those that are there."""
    both = rules(5, (1, 1), threshold=-1)
    assert both.decide(rows(30, 5)).tolist() == [0] * 30
    first = dataclasses.replace(
        both, numbers=both.numbers[:1], vectors=both.vectors[:, :1].copy(), starts=both.starts[:1],
        thresholds=np.array([0.1]), shares=both.shares[:1],
    )  # fmt: skip
    with_second = dataclasses.replace(both, thresholds=np.array([0.1, -1]))
    in_first = first.decide(rows(30, 5)) == 0
    assert in_first.any()
    assert np.array_equal(with_second.decide(rows(30, 5)) == 0, in_first)


@given(st.integers(0, 99))
def test_what_a_prediction_promises_holds(seed: int) -> None:
    """Images of a class have its number and its precision as probability; candidates differ, are sorted and
    padded, and their scores add up to 1 at most. All other images are as they were."""
    images, found = rows(60, seed), of_clusters(60, seed)
    made = rules(seed).apply(found, images)
    place = rules(seed).decide(images)
    inside = place >= 0
    assert np.array_equal(made.labels[inside], 40 + place[inside])
    assert np.array_equal(made.probabilities[inside], rules(seed).shares[place[inside]])
    assert np.array_equal(made.candidates[inside][:, 0], made.labels[inside])
    for name in ("labels", "probabilities", "candidates", "scores"):
        assert np.array_equal(getattr(made, name)[~inside], getattr(found, name)[~inside])
    assert np.array_equal(made.assigned, found.assigned & ~inside)
    assert (np.diff(made.scores, axis=1) <= 0).all()
    assert (made.scores.sum(axis=1) <= 1 + 1e-6).all()
    for candidates, scores in zip(made.candidates.tolist(), made.scores.tolist(), strict=True):
        shown = [one for one in candidates if one >= 0]
        assert candidates == shown + [-1] * (3 - len(shown))
        assert all(score == 0 for score in scores[len(shown) :])
