"""A small fit that several test files look at; made once in a test run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from imgclust.training.before import Before
from imgclust.training.fit import FitResult, fit
from imgclust.training.parameters import Parameters
from imgclust.training.refitting import Job
from imgclust.types import EncoderIdentity, Preprocessing
from tests.support import between

GROUPS, EACH, DIM = 6, 50, 24
ENCODER = EncoderIdentity(
    name="test",
    architecture="none",
    weights="0" * 64,
    preprocessing=Preprocessing(8, 8),
    precision="float32",
    dim=DIM,
)
SMALL = {
    "n_epochs": 60, "n_components": 3, "min_cluster_size": 8, "min_samples": 5, "n_neighbors": 8,
    "consensus": 0,
}  # fmt: skip
SHORT = {**SMALL, "n_epochs": 30, "consensus": 2}


def grouped(seed: int = 0, groups: int = GROUPS, each: int = EACH) -> tuple[np.ndarray, np.ndarray]:
    """Unit-norm float32 (groups × each, DIM) rows around as many directions, shuffled, and their groups."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(groups, DIM))
    group = rng.permutation(np.repeat(np.arange(groups), each))
    rows = centres[group] + 0.45 * rng.normal(size=(len(group), DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16).astype(np.float32), group


def job() -> Job:
    """Two refits that continue a model."""
    rows, group = grouped(each=30)
    labels, p = group.astype(np.int32), Parameters.for_size(len(rows)).replaced(SHORT)
    points = np.eye(GROUPS, 3, dtype=np.float32)[group] + 0.1 * rows[:, :3]
    return Job(rows, p, Before(labels, labels, points, labels >= 0, labels < 0))


@contextmanager
def rough_maps() -> Iterator[None]:
    """Maps of models take a third of a small fit; of most nothing but their rows is looked at."""
    from imgclust.model import gallery

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "MAP_EPOCHS", 20)
        yield


@cache
def fitted() -> FitResult:
    """A fit of 300 rows in 6 groups; one process of the run makes it, as the first fit compiles for long."""
    found: FitResult = pickle.loads(between.this_run().made("fitted", _fit).read_bytes())
    return found


def _fit(path: Path) -> None:
    rows, _ = grouped()
    with rough_maps():
        path.write_bytes(pickle.dumps(fit(rows, encoder=ENCODER, parameters=SMALL, seed=1)))


@cache
def fitted_pair() -> tuple[object, object, Parameters]:
    """umap-learn's and hdbscan's own fitted objects, for the same rows."""
    import hdbscan
    import umap

    from imgclust.placing.quick_umap import keep_compiled

    keep_compiled()
    rows, _ = grouped()
    p = Parameters.for_size(len(rows)).replaced(SMALL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")
        reducer = umap.UMAP(
            n_neighbors=p.n_neighbors, n_components=p.n_components, min_dist=p.min_dist, n_epochs=p.n_epochs,
            metric=p.metric, random_state=p.random_state,
        ).fit(rows)  # fmt: skip
    sizes = {"min_cluster_size": p.min_cluster_size, "min_samples": p.min_samples}
    return reducer, hdbscan.HDBSCAN(**sizes, prediction_data=True).fit(reducer.embedding_), p
