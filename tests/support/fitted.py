"""A small fit that several test files look at; made once in a test run."""

from __future__ import annotations

import pickle
import warnings
from functools import cache
from pathlib import Path

import numpy as np

from imgclust.training.fit import FitResult, fit
from imgclust.training.parameters import Parameters
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


def grouped(seed: int = 0, groups: int = GROUPS, each: int = EACH) -> tuple[np.ndarray, np.ndarray]:
    """Unit-norm float32 (groups × each, DIM) rows around as many directions, shuffled, and their groups."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(groups, DIM))
    group = rng.permutation(np.repeat(np.arange(groups), each))
    rows = centres[group] + 0.45 * rng.normal(size=(len(group), DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16).astype(np.float32), group


@cache
def fitted() -> FitResult:
    """A fit of 300 rows in 6 groups; one process of the run makes it, as the first fit compiles for long."""
    found: FitResult = pickle.loads(between.this_run().made("fitted", _fit).read_bytes())
    return found


def _fit(path: Path) -> None:
    rows, _ = grouped()
    path.write_bytes(pickle.dumps(fit(rows, encoder=ENCODER, parameters=SMALL, seed=1)))


@cache
def fitted_pair() -> tuple[object, object, Parameters]:
    """umap-learn's and hdbscan's own fitted objects, for the same rows."""
    import hdbscan
    import umap

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
