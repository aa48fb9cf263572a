"""Which parameters a search tries: a few settings of UMAP, and for each HDBSCAN's sizes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np

from imgclust.training.parameters import Parameters

if TYPE_CHECKING:
    import optuna

NEIGHBORS = (0.5, 1.0, 2.0)  # times the default for so many images
COMPONENTS = (5, 10)
MIN_DIST = (0.0, 0.03, 0.1)
FEWEST, MOST = 400, 20  # the smallest cluster: one over so many of the images


def umap_settings(n: int, count: int, seed: int) -> list[Parameters]:
    """Settings of UMAP to try, the default first, the others drawn from a grid around it.

    All without consensus: its refits depend on HDBSCAN's sizes, so that each trial would cost 13 to 25 UMAPs.

    Args:
        n: training images.
        count: settings at most; each costs a UMAP.
        seed: of the draw.
    """
    default = dataclasses.replace(Parameters.for_size(n), consensus=0)
    grid = [
        dataclasses.replace(
            default,
            n_neighbors=min(n - 1, max(5, round(factor * default.n_neighbors))),
            n_components=min(components, n - 2),
            min_dist=distance,
        )
        for factor, components, distance in itertools.product(NEIGHBORS, COMPONENTS, MIN_DIST)
    ]
    others = [p for p in dict.fromkeys(grid) if p != default]
    order = np.random.default_rng(seed).permutation(len(others))
    return [default, *(others[i] for i in order[: count - 1])]


def suggested(trial: optuna.Trial, settings: list[Parameters], n: int) -> tuple[int, Parameters]:
    """The setting of UMAP and all parameters that a trial tries."""
    setting = trial.suggest_categorical("umap", list(range(len(settings))))
    least = max(5, n // FEWEST)
    size = trial.suggest_int("min_cluster_size", least, max(least + 1, n // MOST), log=True)
    share = trial.suggest_float("min_samples_share", 0.1, 1.0)
    return setting, dataclasses.replace(
        settings[setting], min_cluster_size=size, min_samples=max(1, round(share * size))
    )


def default_trial(n: int) -> dict[str, float]:
    """What a trial with the defaults suggests, to begin with."""
    default = Parameters.for_size(n)
    least = max(5, n // FEWEST)
    size = min(max(default.min_cluster_size, least), max(least + 1, n // MOST))
    return {"umap": 0, "min_cluster_size": size, "min_samples_share": 0.5}
