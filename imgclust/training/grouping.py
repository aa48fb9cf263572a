"""Training embeddings → a fitted UMAP and HDBSCAN, and the clusters that were chosen."""

from __future__ import annotations

from typing import Any

from imgclust.support.progress import Stages
from imgclust.training import cuml_fit
from imgclust.training.before import Before
from imgclust.training.borders import put_borders
from imgclust.training.consensus import refits
from imgclust.training.cost import Cost
from imgclust.training.parameters import Parameters
from imgclust.training.refitting import Job
from imgclust.training.selection import Selection, select
from imgclust.training.umap_hdbscan import fit_hdbscan, fit_umap
from imgclust.types import Floats


def group(
    rows: Floats,
    p: Parameters,
    cost: Cost,
    stages: Stages,
    before: Before | None = None,
    engine: str = "cpu",
) -> tuple[Any, Any, Selection]:
    """Fit UMAP and, on its points, HDBSCAN; choose clusters from its tree.

    Args:
        rows: float32 (n, d), unit-norm, of float16 values.
        cost: reported before the long part begins.
        stages: are told what is going on.
        before: what the previous model says of the rows, in a fit that continues its taxonomy: UMAP starts
            from its places, keeps its clusters apart, and they are preferred.
        engine: of `cuml_fit.ENGINES`.

    Raises:
        FitError: no cluster was found.
    """
    expected = f"; all in all about {cost.memory / 1e9:.1f} GB and {max(1, round(cost.seconds / 60))} min"
    agreed = None
    if p.consensus:
        pace = f"{cost.processes} at a time" if cost.processes > 1 else "one after another"
        what = f"{p.consensus} fits, each on four fifths of the images, {pace}"
        with stages.stage("consensus", what + expected) as tell:
            agreed = refits(Job(rows, p, before), cost.processes, tell)
        expected = ""
    if engine == "cuml":
        expected = f"; by cuML {cuml_fit.cuml_version()}"
    with stages.stage("umap", f"{len(rows)} images, {p.n_epochs} epochs{expected}") as tell:
        reducer = cuml_fit.fit_umap(rows, p) if engine == "cuml" else fit_umap(rows, p, tell, before, agreed)
    with stages.stage("hdbscan", f"{len(rows)} images, min_samples {p.min_samples}"):
        clusterer = (cuml_fit.fit_hdbscan if engine == "cuml" else fit_hdbscan)(reducer.embedding_, p)
        put_borders(clusterer, before, p)
    samples = "how far the fits agree" if agreed else f"{p.refits} samples of the images, clustered again"
    with stages.stage("stability", samples) as tell:
        selection = select(clusterer, reducer.embedding_, p, tell, before, agreed)
    return reducer, clusterer, selection
