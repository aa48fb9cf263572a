"""The encoder and the predictor by themselves, in batches, beside one image at a time as the naive loop does.

    python -m benchmarks.stages                five runs of each side in turns: medians

The encoder is `mini`; the naive prediction is `UMAP.transform` and `approximate_predict`. Both sides get the
clip-art example's JPEGs and a model of them. Prints a JSON line for each figure, then a table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import naive
from benchmarks.common import Figure, clipart_jpegs, machine, model_folder, summed_up, table
from benchmarks.sides import Setup, parts
from imgclust.embedding.torch_encoder import MAX_BATCH
from imgclust.images.decode import decode


def per_second(work: Callable[[Any], Any], batch: Any, least: float = 1.0) -> float:
    """Rows per second of `work`, called with this batch again and again for at least so many seconds."""
    calls, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < least:
        work(batch)
        calls += 1
    return calls * len(batch) / taken


def in_turns(
    name: str, runs: int, ours: Callable[[Any], Any], theirs: Callable[[Any], Any], batch: Any
) -> Figure:
    """`ours` on the batch, beside `theirs` on one row."""
    ours(batch)
    theirs(batch[:1])
    pairs = [(per_second(ours, batch), per_second(theirs, batch[:1])) for _ in range(runs)]
    return summed_up("stages", name, "images/s", [p[0] for p in pairs], [p[1] for p in pairs])


def figures(runs: int) -> Iterator[Figure]:
    model, encoder = parts(Setup("", "", 0, model_folder(), "mini", True))
    preprocessing = encoder.identity.preprocessing
    pixels = np.stack([decode(jpeg, preprocessing).pixels for jpeg in clipart_jpegs(MAX_BATCH)])
    embeddings = encoder.encode(pixels)
    yield in_turns(f"embedding, mini, batch of {len(pixels)}", runs, encoder.encode, encoder.encode, pixels)
    yield in_turns(
        f"prediction, {len(model.labels_)} training images, batch of {len(pixels)}",
        runs, model.predict, naive.Predicts(model), embeddings,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(machine()))
    lines = []
    for figure in figures(arguments.runs):
        print(figure.line(), flush=True)
        lines.append(json.loads(figure.line()))
    print(table(lines))


if __name__ == "__main__":
    main()
