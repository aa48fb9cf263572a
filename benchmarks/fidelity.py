"""How near are frozen predictions to UMAP and HDBSCAN with the chance taken out?

    NUMBA_NUM_THREADS=1 python -m benchmarks.fidelity [--cache DIR] [SETTING…]

The yardstick: the majority label over 25 transform seeds of umap-learn, called one row at a time, and
`hdbscan.approximate_predict`. 25 more seeds show how far two such majorities agree: the ceiling. Prints a
JSON line per setting and method. The first run fits and transforms for an hour; what it found is cached.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hdbscan
import numpy as np
import umap.umap_
from sklearn.metrics import normalized_mutual_info_score

from benchmarks.common import FITTED
from benchmarks.settings import SETTINGS, fitted, frozen
from imgclust.predictor import umap_transform
from imgclust.predictor.exact import ordered_sum
from imgclust.predictor.neighbours import Neighbourhood
from imgclust.predictor.predictor import FrozenPredictor

COMPARE = umap.umap_.pairwise_distances  # umap's own, before `remember_neighbours` stands in for it
SEEDS = 50  # two halves: yardstick and ceiling
SMALL = 4096  # rows; below it umap compares with all of them, so that its neighbours are exact
STRONG = 0.8  # share of the seeds that agree on an image


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """Labels, int (seeds, rows); majorities of both halves; how many of the first half's seeds agree."""

    labels: np.ndarray
    first: np.ndarray
    second: np.ndarray
    strength: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> Yardstick:
        half = len(labels) // 2
        (first, strength), (second, _) = majority(labels[:half]), majority(labels[half:])
        return cls(labels, first, second, strength)


def majority(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent label of each column, of equals the smallest; and its share."""
    votes = np.stack([(labels == label).sum(0) for label in range(-1, labels.max() + 1)])
    return votes.argmax(0) - 1, votes.max(0) / len(labels)


def yardstick(name: str, cache: Path, *, exact: bool = False) -> Yardstick:
    """Transform and label every held-out row with every seed; `exact` gives umap exact neighbours."""
    path = cache / f"yard{'x' if exact else ''}-{name}.npz"
    if not path.exists():
        reducer, clusterer, data = fitted(name, cache)
        remember_neighbours(reducer, data.train if exact else None)
        points = []
        for seed in range(SEEDS // 2 if exact else SEEDS):
            reducer.transform_seed = 1000 + seed
            points.append(np.concatenate([reducer.transform(row[None]) for row in data.held_out]))
        stacked = np.stack(points)
        labels, _ = hdbscan.approximate_predict(clusterer, stacked.reshape(-1, stacked.shape[-1]))
        np.savez(path, points=stacked, labels=labels.reshape(stacked.shape[:2]))
    with np.load(path) as file:
        return Yardstick.of(file["labels"])


def remember_neighbours(reducer: Any, train: np.ndarray | None) -> None:
    """Let umap search each row's neighbours once, not once per seed: its search does not depend on the seed.

    Args:
        train: the training rows, to answer with exact euclidean neighbours instead of the index's own.
    """
    known: dict[bytes, Any] = {}
    if reducer._small_data:

        def distances(rows: np.ndarray, others: np.ndarray, **options: Any) -> np.ndarray:
            key = rows.tobytes()
            if key not in known:
                known[key] = COMPARE(rows, others, **options)
            return known[key].copy()

        umap.umap_.pairwise_distances = distances
        return
    index = reducer._knn_search_index
    search = index.query

    def query(rows: np.ndarray, k: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        key = rows.tobytes()
        if key not in known:
            known[key] = search(rows, k, epsilon=epsilon) if train is None else nearest(rows[0], train, k)
        return known[key][0].copy(), known[key][1].copy()

    index.query = query


def nearest(row: np.ndarray, train: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    squares = (train * train).sum(1) - 2 * train @ row
    rough = np.argpartition(squares, 2 * k)[: 2 * k]
    distances = np.sqrt(((train[rough].astype(np.float64) - row) ** 2).sum(1))
    order = np.argsort(distances, kind="stable")[:k]
    return rough[order][None].astype(np.int32), distances[order][None].astype(np.float32)


def methods(predictor: FrozenPredictor, labels: np.ndarray, rows: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Name and labels of each way to place a point, from the cheapest to the one that is used."""
    near = predictor._neighbours.search(rows)
    votes = np.stack([(labels[near.rows] == c).sum(1) for c in range(-1, labels.max() + 1)])
    yield "neighbours' vote", lambda: votes.argmax(0) - 1
    yield "weighted mean", lambda: predictor.tree.predict(weighted_mean(predictor, near)).labels
    yield "settled only", lambda: settled_only(predictor, near)
    yield "settled and replayed", lambda: predictor.predict(rows).labels


def weighted_mean(predictor: FrozenPredictor, near: Neighbourhood) -> np.ndarray:
    weights = predictor._umap._weights(np.ascontiguousarray(near.distances.T))
    places = predictor._umap._axes[:, near.rows].swapaxes(1, 2).astype(np.float64)
    means = [ordered_sum(weights * axis) / ordered_sum(weights) for axis in places]
    return np.stack(means, 1).astype(np.float32)


def settled_only(predictor: FrozenPredictor, near: Neighbourhood) -> np.ndarray:
    before = umap_transform._REPLAY, umap_transform._LONG_REPLAY
    umap_transform._REPLAY = umap_transform._LONG_REPLAY = 0
    try:
        return predictor.tree.predict(predictor._umap.transform(near).points).labels
    finally:
        umap_transform._REPLAY, umap_transform._LONG_REPLAY = before


def figures(name: str, cache: Path) -> Iterator[dict[str, Any]]:
    model = frozen(name, cache)
    data = SETTINGS[name].data()
    yard = yardstick(name, cache)
    half = len(yard.labels) // 2
    single = float((yard.labels[:half] == yard.first).mean())
    ceiling = float((yard.first == yard.second).mean())
    predictor = FrozenPredictor(model.arrays, model.parameters, threads=1)
    yield {
        "setting": name, "train": len(data.train), "held_out": len(data.held_out),
        "clusters": len(model.clusters),
        "single_seed": single, "ceiling": ceiling, "strong_share": float((yard.strength >= STRONG).mean()),
        "other": float((yard.first < 0).mean()),
        "nmi": normalized_mutual_info_score(data.held_out_categories, yard.first),
    }  # fmt: skip
    exact = None if len(data.train) < SMALL else majority(yardstick(name, cache, exact=True).labels)[0]
    for method, run in methods(predictor, model.arrays["labels"], data.held_out):
        started = time.process_time()
        labels = run()
        spent = time.process_time() - started
        yield {
            "setting": name,
            "method": method,
            "agreement": float((labels == yard.first).mean()),
            "agreement_second": float((labels == yard.second).mean()),
            "agreement_strong": float((labels == yard.first)[yard.strength >= STRONG].mean()),
            "agreement_exact_neighbours": None if exact is None else float((labels == exact).mean()),
            "other": float((labels < 0).mean()),
            "nmi": normalized_mutual_info_score(data.held_out_categories, labels),
            "cpu_ms": 1000 * spent / len(labels),
        }
    yield {"setting": name, "unsettled": predictor.unsettled / predictor.rows}
    if exact is not None:
        yield differing(name, cache, labels, yard)


def differing(name: str, cache: Path, ours: np.ndarray, yard: Yardstick) -> dict[str, Any]:
    """Where we differ from strong majorities: what umap's index found of the neighbours, and who is right.

    Right is a cluster in which the image's own category is the commonest; "other" is neither right nor wrong.
    """
    reducer, clusterer, data = fitted(name, cache)
    k, search = reducer._n_neighbors, reducer._knn_search_index

    def found(row: np.ndarray) -> float:
        rows = search.query(row[None], k, epsilon=0.12)[0][0]  # as `UMAP.transform` asks
        return len(np.intersect1d(rows, nearest(row, data.train, k)[0][0])) / k

    recall = np.array([found(row) for row in data.held_out])
    labels = clusterer.labels_
    commonest = [np.bincount(data.train_categories[labels == c]).argmax() for c in range(labels.max() + 1)]
    rows = np.flatnonzero((yard.strength >= STRONG) & (ours != yard.first))
    tally = {
        f"{who}_{verdict}": sum(
            bool(label >= 0 and (commonest[label] == category) == right)
            for label, category in zip(answers[rows], data.held_out_categories[rows], strict=True)
        )
        for who, answers in (("ours", ours), ("theirs", yard.first))
        for verdict, right in (("right", True), ("wrong", False))
    }
    return {
        "setting": name,
        "strong_that_differ": len(rows),
        "of_these_index_found_no_neighbour": int((recall[rows] == 0).sum()),
        "all_index_found_no_neighbour": int((recall == 0).sum()),
        "agreement_strong_where_it_found_some": float(
            (ours == yard.first)[(yard.strength >= STRONG) & (recall > 0)].mean()
        ),
        **tally,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--cache", type=Path, default=FITTED)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in options.settings or SETTINGS:
        for figure in figures(name, options.cache):
            short = {k: round(v, 4) if isinstance(v, float) else v for k, v in figure.items()}
            print(json.dumps(short), flush=True)


if __name__ == "__main__":
    main()
