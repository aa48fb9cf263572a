"""Training rows sorted into cells around some hundred centres, so that a search reads a tenth of them.

A search reads the cells whose centre is nearly as near as the nearest centre. How nearly is measured when a
model is frozen: on training rows, so that next to none of their neighbours is missed. Rows between clusters
read many cells, rows within a cluster few; where the data has no clusters every search reads everything.
All of it is integer arithmetic, so the cells are a pure function of the embeddings.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imgclust.predictor import exact, int8

BLOCK = 32  # rows of which only the best is looked at first; cells consist of whole blocks
_LEAST = 512  # training rows for each cell at least: smaller ones cost more calls than they save products
_SHARE = 0.4  # cells for each root of the training rows: 150 for 150,000
_TURNS, _SAMPLE = 8, 128  # of k-means, and rows for each centre that it looks at
_ASKED = 1024  # training rows whose neighbours are looked for
_MISSED = 0.0005  # share of their neighbours that may lie in cells that are not read
_SCORES = 1 << 24  # scores held at once

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


def shuffled(n: int) -> Indices:
    """A fixed order in which neighbouring rows have nothing in common (golden-ratio steps).

    Training images often come sorted by source: the first of them are no sample.
    """
    step = max(1, round(n * 0.6180339887498949))
    while np.gcd(step, n) != 1:
        step += 1
    return np.arange(n, dtype=np.int64) * step % n


def shortlist_length(n: int, count: int) -> int:
    """How many candidates the rounded products choose, for `count` neighbours among n."""
    return min(n, count + max(count // 2, 32))


def build_ivf(embeddings: int8.Halves, count: int, *, least: int = _LEAST) -> dict[str, Array]:
    """Sort embeddings, rounded to 8-bit integers, into cells.

    Args:
        embeddings: float16 (n, D), unit-norm rows.
        count: of the neighbours that searches will ask for.
        least: training rows for each cell, on average, at least.

    Returns:
        `codes` int8 (N, E): rows of a cell follow each other, in their own order, and its last row is
        repeated until the cell consists of whole blocks.
        `code_rows` int32 (N,): the training row of each, -1 for a repeated one.
        `code_scale` float64 (1,). `squares` float64 (n,), the exact squared lengths of the embeddings.
        `cell_starts` int32 (K + 1,): where each cell begins in `codes`, and N.
        `cell_centres` int8 (K, E). `cell_margin` int32 (1,): a search reads the cells whose product with
        the query is no farther than this below the largest one.
    """
    scale = int8.scale_of(embeddings)
    rows = int8.encode(embeddings, scale)
    centres, cell = _cluster(rows, shortlist_length(len(rows), count), least)
    order = np.argsort(cell, kind="stable")
    sizes = np.bincount(cell, minlength=len(centres))
    starts = np.concatenate([[0], np.cumsum(-(-sizes // BLOCK) * BLOCK)])
    first = np.cumsum(sizes) - sizes
    code_rows = np.full(starts[-1], -1, dtype=np.int32)
    code_rows[np.arange(len(rows)) + np.repeat(starts[:-1] - first, sizes)] = order
    last = np.repeat(order[first + sizes - 1], np.diff(starts))  # of each place's cell
    return {
        "codes": rows[np.where(code_rows >= 0, code_rows, last)],
        "code_rows": code_rows,
        "code_scale": np.array([scale]),
        "squares": int8.squares_of(embeddings),
        "cell_starts": starts.astype(np.int32),
        "cell_centres": centres,
        "cell_margin": np.array([_margin(rows, centres, cell, min(count, len(rows)))], dtype=np.int32),
    }


def _cluster(rows: int8.Codes, smallest: int, least: int) -> tuple[int8.Codes, Indices]:
    """k-means on the sphere: centres, int8 (K, E), and each row's cell; none has fewer than `smallest`."""
    n = len(rows)
    count = max(1, min(math.isqrt(n) * _SHARE, n // max(least, smallest)).__floor__())
    order = shuffled(n)
    sample = rows[np.sort(order[: _SAMPLE * count])]
    centres = rows[order[:count]]
    for _ in range(_TURNS if count > 1 else 0):
        centres = _centres(sample, _nearest(sample, centres), centres)
    cell = _nearest(rows, centres)
    while (small := np.bincount(cell, minlength=len(centres)) < smallest).any() and not small.all():
        centres = centres[~small]
        cell = _nearest(rows, centres)
    return (centres[:1], np.zeros(n, dtype=np.int64)) if small.all() else (centres, cell)


def _nearest(rows: int8.Codes, centres: int8.Codes) -> Indices:
    """The centre of the largest product with each row, of equals the first."""
    product = int8.product(rows.shape[1])
    step = max(1, _SCORES // len(centres))
    others = int8.shared(centres)
    return np.concatenate(
        [
            product(int8.shared(rows[i : i + step]), others).numpy().argmax(1)
            for i in range(0, len(rows), step)
        ]
    )


def _centres(rows: int8.Codes, cell: Indices, before: int8.Codes) -> int8.Codes:
    """Mean directions of the rows of each cell, as codes; a cell without rows keeps its centre."""
    sums = torch.zeros(before.shape, dtype=torch.float64)  # of integers, so exact in any order
    sums.index_add_(0, torch.from_numpy(cell), torch.from_numpy(rows).double())
    empty = np.bincount(cell, minlength=len(before)) == 0
    sums[torch.from_numpy(empty)] = torch.from_numpy(before[empty]).double()
    means = sums.numpy().T
    lengths = np.sqrt(exact.ordered_sum(means * means))
    means = means / np.maximum(lengths, 1.0)
    return np.ascontiguousarray(np.rint(means * (127.0 / np.abs(means).max())).astype(np.int8).T)


def _margin(rows: int8.Codes, centres: int8.Codes, cell: Indices, count: int) -> int:
    """How far below a training row's largest product with a centre those with its neighbours' centres lie."""
    if len(centres) == 1:
        return 0
    product = int8.product(rows.shape[1])
    asked = np.sort(shuffled(len(rows))[:_ASKED])
    gaps = []
    step = max(1, _SCORES // len(rows))
    for i in range(0, len(asked), step):
        part = asked[i : i + step]
        queries = int8.shared(rows[part])
        near = product(queries, int8.shared(centres)).numpy()
        scores = product(queries, int8.shared(rows))
        scores[torch.arange(len(part)), torch.from_numpy(part)] = torch.iinfo(torch.int32).min
        lowest = scores.topk(min(count, len(rows) - 1), dim=1).values.amin(1)  # all that tie with it count
        query, row = np.nonzero((scores >= lowest[:, None]).numpy())
        gaps.append(near.max(1)[query] - near[query, cell[row]])
    ordered = np.sort(np.concatenate(gaps))
    return int(ordered[-1 - int(_MISSED * len(ordered))])
