"""Images per second of the predictor on a CUDA device, and whether its labels are the processor's.

    python -m benchmarks.gpu [--device cuda] [--train 150000] [--dim 512] [--check 256]

Uses frozen arrays that are made up with the shape of real ones (no fit, no download), so it runs anywhere.
Prints a JSON line per batch size. Without a GPU, `--device torch-cpu` runs the same code on the processor.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from imgclust.predictor.predictor import FrozenPredictor
from imgclust.predictor.prepare import prepare

NEIGHBOURS, MIN_SAMPLES, CLUSTERS = 70, 1000, 33  # of the article's model
BATCHES = (1, 64, 256, 1024)


def made_up(n: int, dim: int) -> tuple[dict[str, np.ndarray], dict[str, dict[str, object]], np.ndarray]:
    """Arrays, parameters and 1,024 rows to predict: clouds in both spaces, a cluster for each."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, dim)).astype(np.float32)
    cloud = rng.integers(CLUSTERS, size=n + 1024)
    rows = np.empty((n + 1024, dim), dtype=np.float16)
    for i in range(0, len(rows), 8192):
        part = centres[cloud[i : i + 8192]]
        part = part + 0.8 * rng.standard_normal(part.shape, dtype=np.float32)
        rows[i : i + 8192] = part / np.sqrt((part * part).sum(1, keepdims=True))
    points = (rng.uniform(0, 15, size=(CLUSTERS, 5))[cloud[:n]] + 0.5 * rng.normal(size=(n, 5))).astype(
        np.float32
    )
    # a chain of splits: node n + 2 i holds cloud i, node n + 2 i + 1 the clouds after it
    inner = np.arange(CLUSTERS - 1)
    spine, leaf = n + np.append(0, 2 * inner[:-1] + 2), n + 2 * inner + 1
    last = n + 2 * inner[-1] + 2
    node = np.append(leaf, last)
    split = np.linspace(0.5, 1.0, CLUSTERS - 1)
    parents = np.concatenate([spine, spine, node[cloud[:n]]])
    children = np.concatenate([leaf, np.append(spine[1:], last), np.arange(n)])
    lambdas = np.concatenate([split, split, rng.uniform(1.1, 2.5, n)])
    sizes = np.concatenate([np.full(2 * len(split), MIN_SAMPLES), np.ones(n, dtype=np.int64)])
    arrays = {
        "embeddings": rows[:n],
        "points": points,
        "core_distances": rng.uniform(0.35, 0.6, n),
        "tree_parent": parents.astype(np.int64),
        "tree_child": children.astype(np.int64),
        "tree_lambda": lambdas,
        "tree_size": sizes.astype(np.int64),
        "cluster_nodes": np.sort(node).astype(np.int64),
    }
    umap = {
        "n_neighbors": NEIGHBOURS, "metric": "euclidean", "a": 1.82, "b": 0.82, "negative_sample_rate": 5,
        "repulsion_strength": 1.0, "n_epochs": 300, "learning_rate": 1.0, "local_connectivity": 1.0,
    }  # fmt: skip
    hdbscan = {"min_samples": MIN_SAMPLES, "min_cluster_size": MIN_SAMPLES, "metric": "euclidean"}
    params: dict[str, dict[str, object]] = {"umap": umap, "hdbscan": hdbscan, "novelty": {"threshold": 0.3}}
    return {**arrays, **prepare(arrays, params)}, params, rows[n:].astype(np.float32)


def rate(predictor: FrozenPredictor, rows: np.ndarray, runs: int = 5) -> float:
    """Images per second, the median of several calls after one to warm up."""
    predictor.predict(rows)
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        predictor.predict(rows)
        seconds.append(time.perf_counter() - started)
    return len(rows) / float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--train", type=int, default=150_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--check", type=int, default=256, help="rows that are predicted on the processor too")
    options = parser.parse_args()
    arrays, params, rows = made_up(options.train, options.dim)
    device = FrozenPredictor(arrays, params, device=options.device)
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device
    for size in BATCHES:
        print(
            json.dumps({"device": name, "batch": size, "images_per_s": round(rate(device, rows[:size]), 1)}),
            flush=True,
        )
    checked = rows[: options.check]
    expected, got = FrozenPredictor(arrays, params).predict(checked), device.predict(checked)
    equal = float((expected.labels == got.labels).mean())
    farthest = float(np.abs(expected.points - got.points).max())
    print(json.dumps({"device": name, "labels_equal": equal, "largest_difference_of_a_place": farthest}))


if __name__ == "__main__":
    main()
