"""The nearest training images of an embedding, in CLIP space: exact products, so the same for any batch.

Two stages. A shortlist from embeddings rounded to 8-bit integers, whose products any processor adds up
without rounding, within the cells that may hold it; then the true distances of the shortlist. Those are exact
as well: float16 values are multiples of 2**-24, so a product of two is a multiple of 2**-48, and a sum of
such products below 2 in size needs 49 of float64's 53 bits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imgclust.predictor import int8
from imgclust.predictor.ivf import BLOCK, shortlist_length

_PIECE = 4096  # rows of a cell that are compared at once, at most
_HELD = 1 << 22  # scores held at once: 16 MB
LEAST_PART = 48  # rows of a thread: with fewer, threads wait for the interpreter's lock too long

Indices = npt.NDArray[np.int64]

# a candidate as an integer that sorts by query, then by falling score, then by place:
# 13 bits of query, 26 of score, 24 of place
_PLACE, _SCORE = 24, 26
_PLACES = (1 << _PLACE) - 1
_RANK = (1 << _PLACE + _SCORE) - 1  # all but the query; all ones where there is no candidate
_MIDDLE = 1 << _SCORE - 1  # scores lie on both sides of 0
_NONE = -_MIDDLE  # below any score
_FEW = 4096  # blocks that are sorted as they are
_CLASS_BITS = 8  # of a score, by which blocks are classed before they are sorted


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The k nearest training images of m embeddings, nearest first, equally near ones by row.

    Attributes:
        rows: int64 (m, k).
        distances: float64 (m, k); euclidean, or 1 − cosine.
        similarities: float64 (m,); the largest cosine among them.
    """

    rows: Indices
    distances: npt.NDArray[np.float64]
    similarities: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """Which cells are read for which of m queries: pairs, ordered by cell.

    Attributes:
        queries: int64 (pairs,), numbers of queries.
        codes: int8 (pairs, E), theirs.
        bounds: int64 (K + 1,): where each cell's pairs begin, and how many there are.
        count: m.
    """

    queries: Indices
    codes: torch.Tensor
    bounds: Indices
    count: int


class Neighbours:
    """Search over the frozen embeddings.

    Args:
        arrays: `embeddings` float16 (n, D) and what `ivf.build_ivf` made of them.
        count: how many neighbours are asked for, at most as many as the cells were built for.
        metric: "euclidean" or "cosine".
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], count: int, metric: str) -> None:
        self._embeddings = int8.shared(arrays["embeddings"])
        self._n, self._dim = self._embeddings.shape
        self._codes = int8.shared(arrays["codes"])
        self._rows = arrays["code_rows"]
        self._padded = np.any(self._rows.reshape(-1, BLOCK) < 0, axis=1)  # blocks that hold repeated rows
        self._scale = float(arrays["code_scale"][0])
        self._squares = arrays["squares"]
        self._centres = int8.shared(arrays["cell_centres"])
        self._margin = int(arrays["cell_margin"][0])
        self._starts = arrays["cell_starts"]
        self._pieces = _pieces(self._starts)
        self._count = min(count, self._n)
        self._short = shortlist_length(self._n, count)
        self._cosine = metric == "cosine"
        self._product = int8.product(self._codes.shape[1])

    def tables(self) -> dict[str, Any]:
        """What `kernels/neighbours.c` reads."""
        return {
            "n": self._n, "dim": self._dim, "width": self._codes.shape[1], "cells": len(self._centres),
            "margin": self._margin, "neighbours": self._count, "shortlist": self._short,
            "cosine": self._cosine, "scale": self._scale, "codes": self._codes.numpy(),
            "centres": self._centres.numpy(), "starts": self._starts, "code_rows": self._rows,
            "embeddings": self._embeddings.numpy(), "squares": self._squares,
            "sums": int8.sums_of(self._codes), "centre_sums": int8.sums_of(self._centres),
        }  # fmt: skip

    def search(self, queries: npt.NDArray[np.float32]) -> Neighbourhood:
        """Find the nearest training images.

        Args:
            queries: float32 (m, D), float16 values, m ≥ 1.
        """
        reading = self.reading(queries)
        return self.ranked(queries, [self.candidates(reading, part) for part in self.parts(1, 1)])

    def reading(self, queries: npt.NDArray[np.float32]) -> Reading:
        """Choose the cells to read: those whose centre is nearly as near as the nearest centre."""
        rounded = int8.shared(int8.encode(queries, self._scale))
        near = self._product(rounded, self._centres)
        read = (near >= near.amax(1, keepdim=True) - self._margin).numpy()
        cell, query = np.nonzero(read.T)
        bounds = np.searchsorted(cell, np.arange(read.shape[1] + 1))
        return Reading(query, rounded.index_select(0, torch.from_numpy(query)), bounds, len(queries))

    def parts(self, count: int, queries: int) -> list[slice]:
        """The pieces of cells in at most `count` parts of about equal work, for so many queries."""
        return divided(len(self._pieces), min(count, max(2, queries // LEAST_PART)))

    def candidates(self, reading: Reading, part: slice) -> Indices:
        """The largest products of codes within some pieces, as integers that sort by rank; int64 (m, short).

        Padded with integers above all others. The parts' candidates together hold those of the whole,
        whatever the parts are.
        """
        held = torch.empty(max(_HELD, reading.count * _PIECE), dtype=torch.int32)
        found: list[Indices] = []
        waiting: list[tuple[int, int, int, int]] = []
        used = 0
        for cell, start, stop in self._pieces[part]:
            first, last = int(reading.bounds[cell]), int(reading.bounds[cell + 1])
            size = (last - first) * (stop - start)
            if not size:
                continue
            if used + size > len(held):
                found.append(self._best(reading, held[:used], waiting))
                used, waiting = 0, []
            scores = held[used : used + size].view(last - first, stop - start)
            self._product(reading.codes[first:last], self._codes[start:stop], out=scores)
            waiting.append((first, last, start, stop))
            used += size
        found.append(self._best(reading, held[:used], waiting))
        return _table(np.sort(np.concatenate(found)), reading.count, self._short)

    def _best(self, reading: Reading, scores: torch.Tensor, held: list[tuple[int, int, int, int]]) -> Indices:
        """The candidates among held scores: all that can be among the first `short` of a query.

        Args:
            scores: int32, all on end; of each piece for each of its pairs.
            held: of each piece its pairs' bounds in `reading`, and its bounds in the codes.
        """
        if not held:
            return np.empty(0, dtype=np.int64)
        first, last, start, stop = np.array(held).T
        pairs, blocks = last - first, (stop - start) // BLOCK
        query = reading.queries[ranges(first, pairs)]
        blocks = np.repeat(blocks, pairs)  # of each piece and pair
        place = np.repeat(np.repeat(start, pairs), blocks) + BLOCK * ranges(0, blocks)
        by_block = scores.view(-1, BLOCK)
        best = by_block.amax(1).numpy().astype(np.int64)
        query = np.repeat(query, blocks)
        some = _promising(query, best, reading.count, self._short)
        keys = np.sort(_keys(query.take(some), best.take(some), some))
        # the first rows are in as many blocks whose best rows come first
        chosen = _table(keys, reading.count, self._short)
        block = np.where(chosen < _RANK, chosen & _PLACES, 0)
        inside = by_block.index_select(0, torch.from_numpy(block.ravel())).numpy()
        inside = inside.reshape(*block.shape, BLOCK)
        inside[chosen == _RANK] = _NONE
        padded = np.nonzero(self._padded[place[block] // BLOCK])
        rows = self._rows[place[block[padded], None] + np.arange(BLOCK)]
        inside[padded] = np.where(rows >= 0, inside[padded], _NONE)
        # and the best of so many quarters of blocks are so many rows: what is below them is not among them
        inside = inside.reshape(reading.count, -1)
        quarters = torch.from_numpy(inside).view(reading.count, -1, BLOCK // 4).amax(2).numpy()
        floor = np.partition(quarters, -self._short, axis=1)[:, -self._short]
        found = np.flatnonzero(inside >= np.maximum(floor, _NONE + 1)[:, None])
        place = place.take(block.ravel().take(found // BLOCK)) + found % BLOCK
        return _keys(found // inside.shape[1], inside.ravel().take(found).astype(np.int64), place)

    def ranked(self, queries: npt.NDArray[np.float32], candidates: Sequence[Indices]) -> Neighbourhood:
        """The nearest of all parts' candidates, by true distances."""
        chosen = np.concatenate(candidates, axis=1)
        if len(candidates) > 1:
            chosen = np.partition(chosen, self._short - 1, axis=1)[:, : self._short]
        return self.nearest(queries, self._rows.take(chosen & _PLACES).astype(np.int64))

    def nearest(self, queries: npt.NDArray[np.float32], rows: Indices) -> Neighbourhood:
        """The nearest of a shortlist, int64 (m, short), by true distances."""
        rows = np.sort(rows, axis=1)
        products, own = self._products(queries, rows)
        squares = self._squares[rows]
        cosines = products / np.sqrt(squares * own)
        distances = (
            1.0 - cosines if self._cosine else np.sqrt(np.maximum(squares + own - 2.0 * products, 0.0))
        )
        order = np.argsort(distances, axis=1, kind="stable")[:, : self._count]
        return Neighbourhood(
            np.take_along_axis(rows, order, 1),
            np.maximum(np.take_along_axis(distances, order, 1), 0.0),
            np.minimum(cosines.max(1), 1.0),
        )

    def _products(
        self, queries: npt.NDArray[np.float32], rows: Indices
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Exact products of queries with training rows, (m, short), and with themselves, (m, 1).

        Query by query: what is read for one stays in the cache. Halves become doubles by way of floats, for
        which processors have an instruction.
        """
        m, short = rows.shape
        products = torch.empty((m, short), dtype=torch.float64)
        near = torch.empty((short, self._dim), dtype=torch.float64)
        doubles = torch.from_numpy(queries).double()
        for i, chosen in enumerate(torch.from_numpy(rows)):
            near.copy_(self._embeddings.index_select(0, chosen).float())
            torch.mv(near, doubles[i], out=products[i])
        own = torch.bmm(doubles[:, None, :], doubles[:, :, None])[:, 0]
        return products.numpy(), own.numpy()


def _pieces(starts: npt.NDArray[np.int32]) -> list[tuple[int, int, int]]:
    """Cell, first and last place of each piece."""
    return [
        (cell, start, min(start + _PIECE, int(end)))
        for cell, (begin, end) in enumerate(itertools.pairwise(starts))
        for start in range(int(begin), int(end), _PIECE)
    ]


def divided(length: int, count: int) -> list[slice]:
    """`count` slices of about equal length."""
    edges = [length * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def ranges(start: Indices | int, counts: Indices) -> Indices:
    """`start[i]`, `start[i] + 1`, … for each i, `counts[i]` of them, on end."""
    return np.arange(int(counts.sum())) + np.repeat(start - np.cumsum(counts) + counts, counts)


def _promising(query: Indices, best: Indices, m: int, width: int) -> Indices:
    """Where blocks are that can be among the first `width` of their query: by counting scores in classes.

    Sorting all of them takes three times as long, unless they are few.
    """
    if len(best) < _FEW:
        return np.arange(len(best))
    highest = int(best.max())
    shift = max(0, int(highest - best.min()).bit_length() - _CLASS_BITS)
    score_class = (highest - best) >> shift  # 0: the best
    counts = np.bincount((query << _CLASS_BITS) + score_class, minlength=m << _CLASS_BITS)
    enough = counts.reshape(m, -1).cumsum(axis=1) >= width
    last = np.where(enough[:, -1], enough.argmax(1), 1 << _CLASS_BITS)
    return np.flatnonzero(score_class <= last.take(query))


def _keys(query: Indices, score: Indices, place: Indices) -> Indices:
    return (query << _PLACE + _SCORE) + ((_MIDDLE - score) << _PLACE) + place


def _table(keys: Indices, m: int, width: int) -> Indices:
    """The first `width` of each query's sorted candidates, without the query; int64 (m, width)."""
    if not len(keys):
        return np.full((m, width), _RANK)
    edges = np.searchsorted(keys, np.arange(m + 1) << _PLACE + _SCORE)
    place = edges[:-1, None] + np.arange(width)
    within = place < edges[1:, None]
    return np.where(within, keys[np.where(within, place, 0)] & _RANK, _RANK)
