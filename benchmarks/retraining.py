"""Ten retrainings on a stream that changes slowly: who keeps a number, and does it go on meaning the same?

    python -m benchmarks.retraining [--data FOLDER/] [--svg docs/images/retraining.svg]

Categories come and go: each picture arrives at a time that is half its category's and half its own. A window
of half of all pictures moves over the other half in ten steps, and at each `fit --previous` continues the
model before it. Over all pictures, each time: *kept*, of those that are in a cluster of both models, the
share whose number is the same; *since the first*, the same with the model that began; *meaning*, how much
the clusters of that model that are still there are what their numbers were first given to (1: as much as
those, 0: not at all; see docs/decisions/0028-numbers-keep-their-meaning.md), the mean and the lowest. Prints
a JSON line per retraining.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clipart import Data
from benchmarks.line_chart import Curve, line_chart
from benchmarks.steadiness import different, named_data
from imgclust.model.model import ClusterModel
from imgclust.model.taxonomy import Continuation
from imgclust.training.fit import FitResult, fit

STEPS = 10
CURVES = {
    "kept": ("kept since the last", "#2b55c4"),
    "since_the_first": ("kept since the first", "#d0653a"),
    "meaning": ("meaning, mean", "#1f9a74"),
    "lowest_meaning": ("meaning, lowest", "#9a9a1f"),
}


def arrivals(data: Data, seed: int) -> np.ndarray:
    """float64 (n,): when each picture comes, 0..1."""
    rng = np.random.default_rng(seed)
    kinds, kind = np.unique(data.categories, return_inverse=True)
    turn = rng.permutation(len(kinds)) / max(1, len(kinds) - 1)
    return np.asarray((turn[kind] + rng.random(len(kind))) / 2)


def retrained(data: Data, seed: int) -> Iterator[dict[str, Any]]:
    order = np.argsort(arrivals(data, seed), kind="stable")
    window = len(order) // 2

    def fitted(step: int, previous: ClusterModel | None) -> FitResult:
        begin = round(step / STEPS * (len(order) - window))
        rows = data.rows[order[begin : begin + window]]
        return fit(rows, seed=seed + step, thumbnails=False, previous=previous)

    last = fitted(0, None)
    numbers = {cluster.id for cluster in last.model.clusters}
    first = before = last.model.predict(data.rows).labels
    for step in range(1, STEPS + 1):
        last = fitted(step, last.model)
        now = last.model.predict(data.rows).labels
        assert last.continuation is not None
        yield {
            "retraining": step,
            "kept": same(before, now),
            "since_the_first": same(first, now),
            **meaning(last.continuation, numbers),
            "other": round(float((now < 0).mean()), 3),
        }
        before = now


def meaning(found: Continuation, numbers: set[int]) -> dict[str, Any]:
    """What became of the numbers, and what those of the first model mean now."""
    lived = [cluster for cluster in found.kept if cluster.number in numbers]
    meanings = [cluster.meaning for cluster in lived if cluster.meaning is not None]
    return {
        "meaning": round(float(np.mean(meanings)), 3),
        "lowest_meaning": round(float(np.min(meanings)), 3),
        "clusters": len(found.clusters),
        "of_the_first": len(lived),
        "new": len(found.new),
        "retired": len(found.retired),
        "warned_of": sum(cluster.has_moved for cluster in found.kept),
    }


def same(one: np.ndarray, two: np.ndarray) -> float:
    """Of the pictures that are in a cluster of both, the share whose number is the same."""
    both = (one >= 0) & (two >= 0)
    return round(int((one == two)[both].sum()) / max(1, int(both.sum())), 3)


def svg(lines: list[dict[str, Any]]) -> str:
    """The curves over the retrainings."""
    curves = [
        Curve(title, colour, [(line["retraining"], line[name]) for line in lines])
        for name, (title, colour) in CURVES.items()
    ]
    ticks = [(line["retraining"], str(line["retraining"])) for line in lines]
    return line_chart(curves, limits=(0.0, 0.5, 0.95), ticks=ticks, axis="retraining")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="clipart", help="clipart, digits, or a folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the stream and the fits (%(default)s)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = []
    for line in retrained(different(named_data(arguments.data)), arguments.seed):
        print(json.dumps(line), flush=True)
        lines.append(line)
    if arguments.svg:
        arguments.svg.write_text(svg(lines))


if __name__ == "__main__":
    main()
