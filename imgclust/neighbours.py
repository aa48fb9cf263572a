"""The nearest training images of an embedding, in CLIP space: exact products, so the same for any batch.

Two stages. A shortlist from embeddings rounded to 8-bit integers, whose products any processor adds up
without rounding; then the true distances of the shortlist. Those are exact as well: float16 values are
multiples of 2**-24, so a product of two is a multiple of 2**-48, and a sum of such products below 2 in size
needs 49 of float64's 53 bits.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_BLOCK = 32  # rows of which only the best is looked at first
_STEP_SCORES = 1 << 20  # scores held at once: 4 MB, which stay in the cache
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
    scale = 127.0 / max(float(np.abs(embeddings[i : i + 8192]).max()) for i in parts)
    codes = np.zeros((-(-n // _BLOCK) * _BLOCK, -(-dim // 8) * 8), dtype=np.int8)
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

    def part(self, start: int, stop: int) -> Neighbourhood:
        """Rows `start` to `stop`."""
        rows = slice(start, stop)
        return Neighbourhood(self.rows[rows], self.distances[rows], self.similarities[rows])


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
        rows = self._shortlist(queries)
        parts = [
            self._rank(queries[i : i + _RANKED], rows[i : i + _RANKED]) for i in range(0, len(rows), _RANKED)
        ]
        return Neighbourhood(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _shortlist(self, queries: npt.NDArray[np.float32]) -> Indices:
        """Rows with the `_short` largest products of codes, of equals the first scanned; int64 (m, short)."""
        m = len(queries)
        codes = torch.zeros((m, self._codes.shape[1]), dtype=torch.int8)
        scaled = np.clip(np.rint(queries.astype(np.float64) * self._scale), -127, 127)
        codes[:, : self._dim] = torch.from_numpy(scaled.astype(np.int8))
        floor = torch.full((m,), torch.iinfo(torch.int32).min, dtype=torch.int32)
        tops = torch.empty((m, len(self._codes) // _BLOCK), dtype=torch.int32)
        found = []
        step = max(_STEP_SCORES // m // _BLOCK, 2 * self._short) * _BLOCK
        for number, start in enumerate(range(0, len(self._codes), step)):
            scores = self._product(codes, self._codes[start : start + step]).view(m, -1, _BLOCK)
            best = scores.amax(2)
            done = start // _BLOCK + best.shape[1]
            tops[:, start // _BLOCK : done] = best
            if done >= self._short and number.bit_count() <= 1:
                # the best of so many blocks are so many rows: what is below them all cannot be on the list
                floor = tops[:, :done].topk(self._short, dim=1).values.amin(1)
            found.append(_above(scores, best, floor, start))
        return self._order[self._cut(m, found)]

    def _cut(self, m: int, found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> Indices:
        """The places of the best `_short` of each query; int64 (m, short)."""
        query, place, score = (torch.cat(part).numpy() for part in zip(*found, strict=True))
        real = place < self._n
        query, place, score = query[real], place[real], score[real].astype(np.int64)
        # one integer that sorts by query, then by falling score, then by place: 13 + 26 + 24 bits
        keys = np.sort((query << 50) + (((1 << 25) - score) << 24) + place)
        counts = np.bincount(query, minlength=m)
        first = np.cumsum(counts) - counts
        chosen: Indices = keys[first[:, None] + np.arange(self._short)] & ((1 << 24) - 1)
        return chosen

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
