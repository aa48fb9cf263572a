"""Drift: the stability index and what chance makes of it, what a model keeps, and the sliding window."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.errors import ModelError
from imgclust.model.drift import (
    BINS,
    PARTS,
    DriftCounts,
    Reference,
    SlidingTally,
    by_chance,
    compare,
    judge,
    merged,
    stability_index,
)
from imgclust.model.model import ClusterModel
from imgclust.types import MAX_CANDIDATES, Prediction
from tests.support import fitted
from worker.tagger.drift_gauges import DriftWatch
from worker.telemetry.metrics import Metrics

histograms = st.integers(2, 12).flatmap(
    lambda bins: st.tuples(*[st.lists(st.integers(0, 1000), min_size=bins, max_size=bins)] * 2)
)


def said(labels: Any, probabilities: Any, similarities: Any, novel: Any = None) -> Prediction:
    n = len(labels)
    return Prediction(
        labels=np.asarray(labels, np.int32),
        probabilities=np.asarray(probabilities, np.float32),
        points=np.zeros((n, 2), np.float32),
        novel=np.zeros(n, bool) if novel is None else np.asarray(novel, bool),
        candidates=np.full((n, MAX_CANDIDATES), -1, np.int32),
        scores=np.zeros((n, MAX_CANDIDATES), np.float32),
        similarities=np.asarray(similarities, np.float32),
        assigned=np.zeros(n, bool),
    )


def made(rng: np.random.Generator, n: int, shares: list[float]) -> Prediction:
    """n predictions; `shares` of the clusters, of "other" last."""
    k = len(shares) - 1
    drawn = rng.choice(k + 1, n, p=shares)
    labels = np.where(drawn == k, -1, drawn)
    probabilities = np.where(labels < 0, 0, rng.uniform(0.3, 1, n))
    return said(labels, probabilities, rng.beta(8, 2, n), rng.random(n) < 0.01)


# ── the index ────────────────────────────────────────────────────────────────────────────────────────────


@given(histograms)
def test_the_index_is_a_distance_of_shares(pair: tuple[list[int], list[int]]) -> None:
    """Never negative, the same both ways, finite even with empty bins, zero for a histogram and itself; not a
    number for nothing."""
    one, two = (np.asarray(counts, np.int64) for counts in pair)
    index = stability_index(one, two)
    if not one.sum() or not two.sum():
        assert math.isnan(index)
        return
    assert index >= 0
    assert math.isfinite(index)
    assert index == pytest.approx(stability_index(two, one))
    assert stability_index(one, one) == 0
    order = np.random.default_rng(0).permutation(len(one))
    assert index == pytest.approx(stability_index(one[order], two[order]))


def test_the_index_is_the_textbooks() -> None:
    """Large counts: Σ (a − e) ln(a / e), worked out by hand."""
    expected, actual = np.array([500_000, 300_000, 200_000]), np.array([400_000, 300_000, 300_000])
    by_hand = (0.4 - 0.5) * math.log(0.4 / 0.5) + (0.3 - 0.2) * math.log(0.3 / 0.2)
    assert stability_index(expected, actual) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(("n", "m", "bins"), [(400, 400, 30), (5000, 500, 10), (2000, 20_000, 100)])
def test_chance_is_told_from_drift(n: int, m: int, bins: int) -> None:
    """Two samples of one distribution stay below the bound in about 99 of 100 cases, and not far below."""
    rng = np.random.default_rng(bins)
    shares = rng.dirichlet(np.full(bins, 3.0))
    pairs = [(rng.multinomial(n, shares), rng.multinomial(m, shares)) for _ in range(400)]
    over = [stability_index(*pair) > by_chance(*pair) for pair in pairs]
    assert np.mean(over) <= 0.03
    assert np.mean([stability_index(*pair) > 0.6 * by_chance(*pair) for pair in pairs]) > 0.05


@pytest.mark.parametrize(
    ("index", "chance", "verdict"),
    [
        (0.05, 0.01, "steady"), (0.15, 0.01, "shifting"), (0.3, 0.01, "drifted"), (0.3, 0.4, "steady"),
        (0.5, 0.4, "drifted"), (0.2, 0.15, "shifting"), (math.nan, math.nan, "steady"),
    ],
)  # fmt: skip
def test_verdicts(index: float, chance: float, verdict: str) -> None:
    """The customary limits, but nothing that chance may have made."""
    assert judge(index, chance) == verdict


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50)
@given(st.integers(0, 200), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_counts_add_up(n: int, k: int, seed: int) -> None:
    """Every image is counted once in each histogram; parts together are the whole."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(k + 1)).tolist()
    reference = Reference.of(made(rng, 100, shares), range(k))
    assert reference is not None
    images = made(rng, n, shares)
    tally = reference.count(images)
    assert tally.images == n
    assert tally.probabilities.sum() == np.count_nonzero(images.labels >= 0)
    assert tally.similarities.sum() == n
    assert tally.novel == np.count_nonzero(images.novel)
    half = n // 2
    parts = [
        Prediction(*(getattr(images, f.name)[part] for f in dataclasses.fields(Prediction)))
        for part in (slice(half), slice(half, None))
    ]
    together = reference.count(parts[0]) + reference.count(parts[1])
    for part in PARTS:
        assert np.array_equal(getattr(together, part), getattr(tally, part))
    if n:
        assert tally.other == np.mean(images.labels < 0)
    else:
        assert math.isnan(tally.other)


def test_bins_hold_their_edges() -> None:
    """A probability of 1 is in the last tenth; similarities at an edge belong above it."""
    reference = Reference(
        DriftCounts(np.ones(3, int), np.ones(BINS, int), np.ones(3, int), 0),
        np.array([0.5, 0.75]),
        np.arange(2),
    )
    tally = reference.count(said([0, 1, -1, 0], [1.0, 0.1, 0.0, 0.05], [0.5, 0.75, 0.2, 1.0]))
    assert tally.clusters.tolist() == [2, 1, 1]
    assert tally.probabilities.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert tally.similarities.tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match="the model has no cluster 2"):
        reference.count(said([0, 2], [1, 1], [1, 1]))


@given(histograms)
def test_thin_bins_are_merged_and_lose_nothing(pair: tuple[list[int], list[int]]) -> None:
    """Both keep their sums; each bin holds five of the expected, where there are as many at all."""
    one, two = (np.asarray(counts, np.int64) // 20 for counts in pair)
    expected, actual = merged(one, two)
    assert (expected.sum(), actual.sum()) == (one.sum(), two.sum())
    assert len(expected) == len(actual)
    assert expected.min() >= 5 or len(expected) == 1


def test_what_moved_most_comes_first() -> None:
    """Clusters by their part in the index, with the shares before and now."""
    reference = Reference(
        DriftCounts(np.array([50, 30, 20]), np.ones(BINS, int), np.ones(1, int), 0),
        np.array([]),
        np.arange(2),
    )
    drift = compare(reference, dataclasses.replace(reference.tally, clusters=np.array([50, 10, 40])))
    assert [moved[0] for moved in drift.moved()] == [1, -1, 0]
    assert drift.moved()[0][1:] == (0.3, 0.1)


# ── what a model keeps ───────────────────────────────────────────────────────────────────────────────────


def test_a_fit_keeps_what_it_said_of_held_out_images(tmp_path: Path) -> None:
    """The counts are those of the fit's own predictions, survive the folder, and count the predictions of the
    loaded model into the same bins."""
    result = fitted.fitted()
    result.model.save(tmp_path / "model")
    loaded = ClusterModel.load(tmp_path / "model")
    assert loaded.version == result.model.version
    reference = Reference.of_model(loaded)
    assert reference is not None
    assert reference.tally.images == len(result.split.test)
    assert reference.tally.clusters[-1] == np.count_nonzero(result.test.labels < 0)
    again = reference.count(result.test)
    for part in PARTS:
        assert np.array_equal(getattr(again, part), getattr(reference.tally, part)), part
    assert json.loads(json.dumps(reference.to_dict())) == loaded.reference


def test_a_model_without_held_out_images_has_no_reference(tmp_path: Path) -> None:
    """Nothing held out, a pair that was fitted elsewhere, a folder from before: they load as ever."""
    bare = dataclasses.replace(fitted.fitted().model, reference=None)
    bare.save(tmp_path / "bare")
    loaded = ClusterModel.load(tmp_path / "bare")
    assert Reference.of_model(loaded) is None
    assert Reference.of_model(object()) is None
    assert Reference.of(said([], [], []), range(3)) is None
    assert "reference" not in json.loads((tmp_path / "bare" / "manifest.json").read_bytes())


@pytest.mark.parametrize(
    "damage",
    [
        {"clusters": [1, 2]}, {"clusters": [1, -2, 3, 0]}, {"edges": [0.5, 0.4]}, {"edges": [math.nan]},
        {"edges": "x"}, {"novel": -1}, {"novel": 10**9}, {"probabilities": [[1] * 10]},
        {"similarities": None},
        {"clusters": [2**63 - 1] * 4}, {"clusters": [10**30] * 4},
    ],
)  # fmt: skip
def test_a_damaged_reference_is_refused(damage: dict[str, Any]) -> None:
    """A model folder may come from anywhere: sizes, order and signs are checked before it is used."""
    reference = Reference.of(made(np.random.default_rng(1), 50, [0.4, 0.3, 0.2, 0.1]), range(3))
    assert reference is not None
    with pytest.raises(ModelError, match="reference of held-out images is damaged"):
        Reference.from_dict({**reference.to_dict(), **damage}, range(3))


# ── a stream ─────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 300), st.integers(1, 30)), min_size=1, max_size=60),
    st.integers(2, 6),
    st.integers(1, 40),
)
def test_the_window_is_the_latest_images(
    batches: list[tuple[float, int]], blocks: int, block_images: int
) -> None:
    """It holds the last images, in whole batches and without a gap; at least what `blocks − 1` blocks take
    in, once so many have come; and none that is more than `blocks` blocks back."""
    reference = Reference(
        DriftCounts(np.ones(2, int), np.ones(BINS, int), np.ones(1, int), 0), np.array([]), np.arange(1)
    )
    now = 0.0
    window = SlidingTally(reference, lambda: now, blocks=blocks, block_seconds=100, block_images=block_images)
    sizes = []
    for wait, size in batches:
        now += wait
        window.add(reference.count(said([0] * size, [1.0] * size, [0.9] * size)))
        sizes.append(size)
    ends = np.cumsum(sizes[::-1])
    assert window.tally().images in ends
    assert window.tally().images >= min(sum(sizes), (blocks - 1) * block_images)


def test_a_stream_whose_mixture_changes() -> None:
    """A real model: images like the held-out ones are steady in all three histograms; when one group takes
    over, the clusters drift and it is the cluster that moved most; images of a kind that the model never saw
    are novel, lie farther away and belong less to where they are put; and all is calm when they are gone."""
    model = fitted.fitted().model
    reference = Reference.of_model(model)
    assert reference is not None
    now = 0.0
    window = SlidingTally(reference, lambda: now, blocks=4, block_seconds=10, block_images=50)

    def stream(rows: np.ndarray, times: int) -> None:
        nonlocal now
        for batch in np.array_split(rows, times):
            now += 11
            window.add(reference.count(model.predict(batch)))

    usual = [fitted.grouped(seed=seed, each=60) for seed in (11, 12, 13)]
    stream(usual[0][0], 6)
    calm = window.drift()
    assert [calm.verdict(part) for part in PARTS] == ["steady"] * 3

    rows, group = usual[1]
    favourite = int(np.bincount(model.predict(rows[group == 2]).labels + 1).argmax()) - 1
    assert favourite >= 0
    stream(np.concatenate([rows[group == 2]] * 6), 6)
    shifted = window.drift()
    assert shifted.verdict("clusters") == "drifted"
    assert shifted.moved()[0][0] == favourite

    strange = np.random.default_rng(5).normal(size=(240, fitted.DIM))
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    stream(np.concatenate([strange.astype(np.float16).astype(np.float32)] * 2), 12)  # nothing else is left
    odd = window.drift()
    assert odd.verdict("similarities") == "drifted"
    assert odd.index["probabilities"] > 3 * calm.index["probabilities"]
    assert odd.tally.novelty > 0.5 > odd.reference.novelty

    stream(usual[2][0], 6)
    assert [window.drift().verdict(part) for part in PARTS] == ["steady"] * 3


def test_metrics_tell_it() -> None:
    """The gauges are those of the window; without a reference they are not numbers; another model begins
    again."""
    model = fitted.fitted().model
    metrics = Metrics()
    watch = DriftWatch(metrics)
    watch.begin(None)
    watch.add(model.predict(fitted.grouped(seed=3, each=2)[0]))
    assert math.isnan(metrics.value("imgclust_drift_psi", part="clusters") or 0)
    watch.begin(model)
    rows, group = fitted.grouped(seed=4)
    watch.add(model.predict(rows[group == 1]))
    drift = watch.drift()
    assert drift is not None
    assert metrics.value("imgclust_drift_images") == len(rows[group == 1])
    for part in PARTS:
        assert metrics.value("imgclust_drift_psi", part=part) == drift.index[part]
        assert metrics.value("imgclust_drift_psi_chance", part=part) == drift.chance[part]
    assert (metrics.value("imgclust_drift_psi", part="clusters") or 0) > 0.25
    assert metrics.value("imgclust_drift_other_ratio", of="held-out") == drift.reference.other
    assert metrics.value("imgclust_drift_novel_ratio", of="window") == drift.tally.novelty
    watch.begin(model)
    assert metrics.value("imgclust_drift_images") == 0
