"""Do the clusters mean something? `fit`'s defaults on held-out pictures, beside BERTopic's defaults.

    python -m benchmarks.clipart                 the clip-art example, splits 0 to 4
    python -m benchmarks.clipart --data digits   scikit-learn's handwritten digits, the same code

Each split is a fit of its own. Prints a JSON line per split and method, then a table of means. AMI is the
adjusted mutual information between cluster and category over the held-out pictures that are not in "other";
AMI (all) counts "other" as one more cluster.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score

from benchmarks.common import FITTED
from imgclust.embedding.store import read_embeddings
from imgclust.training.fit import fit

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Data:
    """Unit-norm float32 rows and the category of each."""

    rows: np.ndarray
    categories: np.ndarray


def clipart(cache: Path = FITTED) -> Data:
    """The example's pictures through the `mini` encoder; embedded once."""
    from imgclust.embedding.embed import embed
    from imgclust.embedding.encoder import load_encoder

    images, folder = ROOT / "examples" / "clipart", cache / "clipart-mini"
    embed([images], folder, load_encoder("mini"), progress=False)
    found = read_embeddings(folder)
    with (images / "labels.csv").open(newline="") as file:
        category = {row["file"]: row["category"] for row in csv.DictReader(file)}
    return Data(found.vectors, np.array([category[id_] for id_ in found.ids]))


def digits() -> Data:
    """1,797 handwritten digits of 8 × 8 pixels; the pixels themselves are the embedding."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rows = bunch.data / np.linalg.norm(bunch.data, axis=1, keepdims=True)
    return Data(rows.astype(np.float32), bunch.target)


@dataclasses.dataclass(frozen=True)
class SplitResult:
    """One fit, judged on its held-out part."""

    method: str
    split: int
    clusters: int
    other_train: float
    other_test: float
    ami: float
    ami_all: float
    fit_seconds: float
    predicted_as_fitted: float | None = None


def judge(labels: np.ndarray, categories: np.ndarray) -> dict[str, float]:
    """Agreement of held-out labels with the categories, and the share that is left out."""
    inside = labels >= 0
    return {
        "other_test": float(1 - inside.mean()),
        "ami": float(adjusted_mutual_info_score(categories[inside], labels[inside])),
        "ami_all": float(adjusted_mutual_info_score(categories, labels)),
    }


def with_defaults(data: Data, split: int) -> SplitResult:
    """`imgclust.training.fit` as it is."""
    start = time.perf_counter()
    result = fit(data.rows, seed=split)
    seconds = time.perf_counter() - start
    return SplitResult(
        "imgclust",
        split,
        clusters=len(result.model.clusters),
        other_train=float((result.model.labels_ < 0).mean()),
        fit_seconds=round(seconds, 1),
        predicted_as_fitted=result.figures["predicted_as_fitted"]["share"],
        **judge(result.test.labels, data.categories[result.split.test]),
    )


def with_bertopic_defaults(data: Data, split: int) -> SplitResult:
    """What BERTopic builds when it is asked for nothing, on the same parts of the same rows."""
    import hdbscan
    import umap

    from imgclust.training.dedupe import find_duplicates
    from imgclust.training.split import split_rows

    parts = split_rows(find_duplicates(data.rows).kept, test_fraction=0.2, max_train=10**9, seed=split)
    start = time.perf_counter()
    reducer = umap.UMAP(
        n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=42, n_jobs=1
    )
    points = reducer.fit_transform(data.rows[parts.train])
    clusterer = hdbscan.HDBSCAN(min_cluster_size=10, cluster_selection_method="eom", prediction_data=True)
    clusterer.fit(points)
    seconds = time.perf_counter() - start
    labels, _ = hdbscan.approximate_predict(clusterer, reducer.transform(data.rows[parts.test]))
    return SplitResult(
        "BERTopic's defaults",
        split,
        clusters=int(clusterer.labels_.max()) + 1,
        other_train=float((clusterer.labels_ < 0).mean()),
        fit_seconds=round(seconds, 1),
        **judge(labels, data.categories[parts.test]),
    )


METHODS: dict[str, Callable[[Data, int], SplitResult]] = {
    "imgclust": with_defaults,
    "bertopic": with_bertopic_defaults,
}


def table(outcomes: list[SplitResult]) -> Iterator[str]:
    """Means over the splits, with the least and the most where it matters."""
    yield f"{'':22}{'splits':>7}{'AMI':>22}{'other':>22}{'clusters':>10}{'AMI (all)':>11}{'fit s':>7}"
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome.method == method]

        def column(name: str, rows: list[SplitResult] = rows) -> np.ndarray:
            return np.array([getattr(row, name) for row in rows], float)

        ami, other = column("ami"), column("other_test")
        yield (
            f"{method:22}{len(rows):7}"
            f"{f'{ami.mean():.3f} ({ami.min():.3f}–{ami.max():.3f})':>22}"
            f"{f'{other.mean():.3f} ({other.min():.3f}–{other.max():.3f})':>22}"
            f"{column('clusters').mean():10.1f}{column('ami_all').mean():11.3f}"
            f"{column('fit_seconds').mean():7.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=["clipart", "digits"], default="clipart")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--method", choices=sorted(METHODS), action="append")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="umap")
    data = clipart() if arguments.data == "clipart" else digits()
    outcomes: list[SplitResult] = []
    for method in arguments.method or METHODS:
        for split in range(arguments.splits):
            outcomes.append(METHODS[method](data, split))
            line: dict[str, Any] = {"benchmark": "clusters", "data": arguments.data}
            print(json.dumps({**line, **dataclasses.asdict(outcomes[-1])}), flush=True)
    print("\n".join(table(outcomes)))


if __name__ == "__main__":
    main()
