"""Fits on samples of the images, and what they agree on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from imgclust.errors import FitError
from imgclust.support.progress import Progress
from imgclust.training import consensus
from imgclust.training.coassociation import Refit, Refits
from imgclust.training.consensus import refits
from imgclust.training.fit import fit
from imgclust.training.hierarchy import Hierarchy, found_again
from imgclust.training.parameters import Parameters
from imgclust.training.refitting import Job
from imgclust.training.selection import fit_samples
from imgclust.training.umap_hdbscan import fit_hdbscan, fit_umap
from tests.support import fitted

SHORT = fitted.SHORT


@cache
def agreed() -> tuple[Refits, list[float]]:
    """In this process alone; and the progress that was reported."""
    told: list[float] = []
    return refits(fitted.job(), 1, told.append), told


def test_each_refit_is_on_another_sample() -> None:
    """Four fifths of the images each; the groups are found in all of them; progress ends at 1."""
    found, told = agreed()
    _, group = fitted.grouped(each=30)
    assert len(found.fits) == 2
    for one in found.fits:
        assert len(one.rows) == len(np.unique(one.rows)) == found.n * 4 // 5
        assert adjusted_mutual_info_score(group[one.rows], one.labels) > 0.9
    assert not np.array_equal(found.fits[0].rows, found.fits[1].rows)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_process_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it wrote last, and what to do."""
    monkeypatch.setattr(consensus, "PROGRAM", "imgclust.training.nothing")
    monkeypatch.setattr(Job, "refit", lambda self, number, progress: agreed()[0].fits[number])
    with pytest.raises(FitError, match=r"ended with 1: .*No module named.*consensus = 0"):
        refits(fitted.job(), 2)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """With how much was to be written, where, and what to do."""
    with pytest.raises(FitError, match=r"0 MB .*nowhere.*No such file.*TMPDIR.*consensus = 0"):
        fitted.job().write(tmp_path / "nowhere")


def apart(points: np.ndarray, half: np.ndarray) -> float:
    """The distance of the means of both halves, in units of how far the images of one lie from its mean."""
    one, two = points[half == 0], points[half == 1]
    within = np.mean([np.linalg.norm(part - part.mean(0), axis=1).mean() for part in (one, two)])
    return float(np.linalg.norm(one.mean(0) - two.mean(0)) / within)


def test_what_the_refits_agree_on_is_drawn_apart() -> None:
    """A group that all refits divide, and one that each divides otherwise: only the first comes apart, and a
    node of it is stable."""
    rows, group = fitted.grouped(each=40)
    n, rng = len(rows), np.random.default_rng(0)
    agreed_on = (rows[:, 0] > np.median(rows[group == 0, 0])).astype(int)

    def one(everywhere: int) -> Refit:
        labels = (2 * group + np.where(group == everywhere, rng.integers(0, 2, n), 0)).astype(np.int32)
        labels[group == 0] = agreed_on[group == 0]
        tree = fit_hdbscan(np.eye(12, dtype=np.float32)[labels] + 1e-3 * rng.normal(size=(n, 12)), p)
        return Refit(np.arange(n), labels, tree._condensed_tree)

    p = Parameters.for_size(n).replaced({**SHORT, "n_epochs": 100})
    votes = Refits.of(n, [one(1) for _ in range(6)], p.min_cluster_size)
    plain, reducer = fit_umap(rows, p), fit_umap(rows, p, refits=votes)
    one_half, other = group == 0, group == 1
    gained = [
        apart(reducer.embedding_[some], half[some]) / apart(plain.embedding_[some], half[some])
        for some, half in ((one_half, agreed_on), (other, votes.fits[0].labels % 2))
    ]
    assert gained[0] > 1.5 > gained[1]
    hierarchy = Hierarchy.of(fit_hdbscan(reducer.embedding_, p)._condensed_tree)
    stability = found_again(hierarchy, fit_samples(votes))
    assert ((stability >= 0) & (stability <= 1)).all()
    assert stability.max() > 0.95


def test_a_fit_by_consensus() -> None:
    """With a model before it, groups, a number of clusters, a target for "other": stages in order; clusters
    have a stability; the model holds nothing that others do not."""
    told: list[Progress] = []
    before = fitted.fitted().model
    result = fit(
        fitted.grouped()[0], encoder=fitted.ENCODER, parameters=SHORT, seed=1, previous=before, groups=True,
        clusters=(3, 8), other_target=0.1, progress=told.append,
    )  # fmt: skip
    stages = list(result.seconds)
    assert stages[stages.index("consensus") + 1] == "umap"
    assert any(0 < (report.done or 0) < 1 for report in told if report.stage == "consensus")
    assert 3 <= len(result.model.clusters) <= 8
    assert all(cluster.stability is not None for cluster in result.model.clusters)
    assert result.parameters.consensus == 2
    assert {cluster.id for cluster in before.clusters} <= {cluster.id for cluster in result.model.clusters}
    alone = {"births", "birth_cosines"}  # of any fit that continues another
    assert set(result.model.arrays) - alone == set(before.arrays) - alone
    inside = result.labels >= 0
    assert adjusted_mutual_info_score(fitted.grouped()[1][inside], result.labels[inside]) > 0.9
