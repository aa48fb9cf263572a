"""The nearest training images of an embedding, in CLIP space: exact products, so the same for any batch.

Two stages. A shortlist from embeddings rounded to 8-bit integers, whose products any processor adds up
without rounding; then the true distances of the shortlist. Those are exact as well: float16 values are
multiples of 2**-24, so a product of two is a multiple of 2**-48, and a sum of such products below 2 in size
needs 49 of float64's 53 bits.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_BLOCK = 32  # rows of which only the best is looked at first
_STEP_SCORES = 1 << 20  # scores held at once: 4 MB, which stay in the cache
_FINEST = 4000.0  # scale of the codes: sums of a unit vector's products stay below 2**24, exact in float32
_LEAST_BLOCKS = 256  # of a segment: a shorter one is not worth a thread
_RANKED = 16  # queries whose shortlists are read at once: 10 MB of float64

Halves = npt.NDArray[np.float16]
Indices = npt.NDArray[np.int64]


def shuffled(n: int) -> Indices:
    """A fixed order in which neighbouring rows have nothing in common (golden-ratio steps).

    Training images often come sorted by source; scanned in that order, the shortlist's floor would rise late.
    """
    step = max(1, round(n * 0.6180339887498949))
    while np.gcd(step, n) != 1:
        step += 1
    return np.arange(n, dtype=np.int64) * step % n


def codes_shape(n: int, dim: int) -> tuple[int, int]:
    """Whole blocks of rows, and a width that CUDA's int8 product takes."""
    return -(-n // _BLOCK) * _BLOCK, -(-dim // 8) * 8


def build_codes(embeddings: Halves) -> dict[str, npt.NDArray[Any]]:
    """Round embeddings to 8-bit integers, in shuffled order.

    Args:
        embeddings: float16 (n, D), unit-norm rows.

    Returns:
        `codes` int8 (n', D'): D' is the next multiple of 8, n' of `_BLOCK` (the last row is repeated);
        `code_scale` float64 (1,); `squares` float64 (n,), the exact squared lengths of the embeddings.
    """
    n, dim = embeddings.shape
    parts = range(0, n, 8192)
    scale = min(127.0 / max(float(np.abs(embeddings[i : i + 8192]).max()) for i in parts), _FINEST)
    codes = np.zeros(codes_shape(n, dim), dtype=np.int8)
    order, squares = shuffled(n), np.empty(n)
    for i in parts:
        part = embeddings[order[i : i + 8192]].astype(np.float64)
        codes[i : i + len(part), :dim] = np.rint(part * scale)
        squares[order[i : i + 8192]] = (part * part).sum(1)
    codes[n:] = codes[n - 1]
    return {"codes": codes, "code_scale": np.array([scale]), "squares": squares}


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


def shortlist_length(n: int, count: int) -> int:
    """How many candidates the rounded products choose, for `count` neighbours among n."""
    return min(n, count + max(count // 2, 32))


class Neighbours:
    """Search over the frozen embeddings.

    Args:
        arrays: `embeddings` float16 (n, D) and what `build_codes` made of them.
        count: how many neighbours are asked for.
        metric: "euclidean" or "cosine".
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], count: int, metric: str) -> None:
        self._embeddings = _shared(arrays["embeddings"])
        self._n, self._dim = self._embeddings.shape
        self._codes = _shared(arrays["codes"])
        self._scale = float(arrays["code_scale"][0])
        self._squares = arrays["squares"]
        self._order = shuffled(self._n)
        self._count = min(count, self._n)
        self._short = shortlist_length(self._n, count)
        self._cosine = metric == "cosine"
        self._product = _int8_product if _int8_is_exact(self._codes.shape[1]) else _float_product

    def search(self, queries: npt.NDArray[np.float32]) -> Neighbourhood:
        """Find the nearest training images.

        Args:
            queries: float32 (m, D), float16 values, m ≥ 1.
        """
        return self.ranked(queries, [self.candidates(queries, segment) for segment in self.segments(1)])

    def segments(self, count: int) -> list[slice]:
        """The rows that are scanned, in at most `count` parts, none of them short."""
        blocks = len(self._codes) // _BLOCK
        count = max(1, min(count, blocks // _LEAST_BLOCKS))
        edges = [blocks * i // count * _BLOCK for i in range(count + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(edges)]

    def candidates(self, queries: npt.NDArray[np.float32], segment: slice) -> Indices:
        """The largest products of codes within a segment, as integers that sort by rank; int64 (m, short).

        The segments' candidates together hold those of the whole, whatever the segments are.
        """
        m = len(queries)
        codes = torch.zeros((m, self._codes.shape[1]), dtype=torch.int8)
        scaled = np.clip(np.rint(queries.astype(np.float64) * self._scale), -127, 127)
        codes[:, : self._dim] = torch.from_numpy(scaled.astype(np.int8))
        floor = torch.full((m,), torch.iinfo(torch.int32).min, dtype=torch.int32)
        tops = torch.empty((m, (segment.stop - segment.start) // _BLOCK), dtype=torch.int32)
        found, done = [], 0
        step = max(_STEP_SCORES // m // _BLOCK, 2 * self._short) * _BLOCK
        for number, start in enumerate(range(segment.start, segment.stop, step)):
            stop = min(start + step, segment.stop)
            scores = self._product(codes, self._codes[start:stop]).view(m, -1, _BLOCK)
            best = scores.amax(2)
            tops[:, done : done + best.shape[1]] = best
            done += best.shape[1]
            if done >= self._short and number.bit_count() <= 1:
                # the best of so many blocks are so many rows: what is below them all cannot be on the list
                floor = tops[:, :done].topk(self._short, dim=1).values.amin(1)
            found.append(_above(scores, best, floor, start))
        return self._cut(m, found, min(self._short, min(segment.stop, self._n) - segment.start))

    def _cut(
        self, m: int, found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], count: int
    ) -> Indices:
        """The best `count` of each query, as integers that sort by falling score, then by place."""
        query, place, score = (torch.cat(part).numpy() for part in zip(*found, strict=True))
        real = place < self._n
        query, place, score = query[real], place[real], score[real].astype(np.int64)
        # 13 bits of query, 26 of score, 24 of place
        keys = np.sort((query << 50) + (((1 << 25) - score) << 24) + place)
        counts = np.bincount(query, minlength=m)
        first = np.cumsum(counts) - counts
        chosen: Indices = keys[first[:, None] + np.arange(count)] & ((1 << 50) - 1)
        return chosen

    def ranked(self, queries: npt.NDArray[np.float32], candidates: Sequence[Indices]) -> Neighbourhood:
        """The nearest of all segments' candidates, by true distances."""
        keys = np.sort(np.concatenate(candidates, axis=1), axis=1)[:, : self._short]
        rows = self._order[keys & ((1 << 24) - 1)]
        parts = [
            self._rank(queries[i : i + _RANKED], rows[i : i + _RANKED]) for i in range(0, len(rows), _RANKED)
        ]
        return Neighbourhood(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _rank(self, queries: npt.NDArray[np.float32], rows: Indices) -> tuple[Any, Any, Any]:
        """True distances of the shortlist; the nearest `_count`."""
        rows = np.sort(rows, axis=1)
        near = self._embeddings[torch.from_numpy(rows)].double()
        query = torch.from_numpy(queries).double()
        products = torch.bmm(near, query[:, :, None])[:, :, 0].numpy()
        own = torch.bmm(query[:, None, :], query[:, :, None])[:, 0].numpy()
        squares = self._squares[rows]
        cosines = products / np.sqrt(squares * own)
        distances = (
            1.0 - cosines if self._cosine else np.sqrt(np.maximum(squares + own - 2.0 * products, 0.0))
        )
        order = np.argsort(distances, axis=1, kind="stable")[:, : self._count]
        return (
            np.take_along_axis(rows, order, 1),
            np.maximum(np.take_along_axis(distances, order, 1), 0.0),
            np.minimum(cosines.max(1), 1.0),
        )


def _shared(array: npt.NDArray[Any]) -> torch.Tensor:
    """The array as a tensor, not copied; nothing writes to it, so that it may be read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _above(
    scores: torch.Tensor, best: torch.Tensor, floor: torch.Tensor, start: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, place and score of everything at or above the floor."""
    query, block = torch.nonzero(best >= floor[:, None], as_tuple=True)
    inside = scores[query, block]
    hit, place = torch.nonzero(inside >= floor[query][:, None], as_tuple=True)
    return query[hit], start + block[hit] * _BLOCK + place, inside[hit, place]


def _int8_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b.T of int8 matrices as int32."""
    return torch._int_mm(a, b.t())


def _float_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The same in float32: partial sums stay below 2**24, so that no addition rounds."""
    return (a.float() @ b.float().t()).to(torch.int32)


def _int8_is_exact(dim: int) -> bool:
    """Whether this processor's int8 product neither saturates nor rounds.

    Some kernels for processors without VNNI add pairs of products in 16 bits; extreme values show it.
    """
    a = torch.full((32, dim), 127, dtype=torch.int8)
    b = torch.full((32, dim), -127, dtype=torch.int8)
    b[::2] = 127
    a[1::2] = -127
    try:
        return bool((_int8_product(a, b).long() == a.long() @ b.long().t()).all())
    except RuntimeError:  # a build of torch without the kernel
        return False
