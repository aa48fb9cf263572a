"""The predictor's heavy parts in torch, for a GPU: neighbours, UMAP and the nearest point by reachability.

The same arithmetic as `neighbours` and `condensed_tree`, over a whole batch at once; where these prune with a
tree or a shortlist's floor, this compares with everything, which a GPU does faster. `umap_transform` runs on
tensors as it is. Nothing is used that may round otherwise on another device, so the answers are the same bit
for bit; `device_check` looks whether they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imgclust.predictor import int8
from imgclust.predictor.condensed_tree import ClusterTree
from imgclust.predictor.ivf import shortlist_length
from imgclust.predictor.umap_transform import UmapTransform

_CHUNK = 256  # queries at once: their scores of a million rows take 2 GB
_TREE_CHUNK = 32  # queries at once whose distances to every point are float64
_NOT_READ = -(1 << 32)  # below any score
_LEAST_QUERIES = 32  # CUDA's int8 product wants more than 16 rows


@dataclasses.dataclass(frozen=True, slots=True)
class Located:
    """Where m embeddings are.

    Attributes:
        points: float32 (m, d).
        settled: bool (m,).
        similarities: float64 (m,), the largest cosine.
        rows: int64 (m,), the nearest training point by mutual reachability.
        reach: float64 (m,), the distance to it.
        closest: int64 (m,), the nearest training row in the encoder's space.
    """

    points: npt.NDArray[np.float32]
    settled: npt.NDArray[np.bool_]
    similarities: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    reach: npt.NDArray[np.float64]
    closest: npt.NDArray[np.int64]


class DeviceLocator:
    """Embedding → place → nearest training point, on one device of torch.

    Args:
        arrays, params: as for `FrozenPredictor`.
        tree: of the same model.
        device: with float64, so not "mps".
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[Any]],
        params: Mapping[str, Mapping[str, Any]],
        tree: ClusterTree,
        device: torch.device,
    ) -> None:
        self._device = device
        self._near = _Neighbours(arrays, params["umap"], device)
        self._umap = UmapTransform(arrays, params["umap"], tree.index, self._put)
        self._points = self._put(arrays["points"]).double().T.contiguous()
        self._core = self._put(arrays["core_distances"])
        self._rank, self._count = tree.rank, tree.count

    def _put(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.tensor(array, device=self._device)

    @torch.inference_mode()
    def locate(self, embeddings: npt.NDArray[np.float32]) -> Located:
        """Locate embeddings, float32 (m, D)."""
        parts = [
            self._locate(self._put(embeddings[i : i + _CHUNK])) for i in range(0, len(embeddings), _CHUNK)
        ]
        return Located(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))

    def _locate(self, queries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows, distances, similarities = self._near.search(queries)
        points, settled = self._umap.move(rows, distances)
        found = [
            self._nearest(points[i : i + _TREE_CHUNK].double()) for i in range(0, len(points), _TREE_CHUNK)
        ]
        nearest, reach = (torch.cat(part) for part in zip(*found, strict=True))
        return points, settled, similarities, nearest, reach, rows[:, 0]

    def _nearest(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        squares = torch.zeros((len(queries), self._points.shape[1]), dtype=torch.float64, device=self._device)
        for axis, places in enumerate(self._points):
            gap = queries[:, axis, None] - places
            squares += gap * gap
        distance = squares.sqrt()
        nearest = distance.topk(self._count, dim=1, largest=False, sorted=True).values
        core = nearest[:, self._rank, None]
        distance = torch.where(distance <= nearest[:, -1:], distance, torch.inf)
        reach = torch.maximum(torch.maximum(distance, self._core), core)
        lowest = reach.amin(1)
        distance = torch.where(reach == lowest[:, None], distance, torch.inf)
        # of equally near ones the first: argmin promises none, so the rows themselves are compared
        tied = distance == distance.amin(1, keepdim=True)
        places = torch.arange(distance.shape[1], device=self._device)
        return torch.where(tied, places, distance.shape[1]).amin(1), lowest


class _Neighbours:
    """`imgclust.predictor.neighbours.Neighbours` as one product and one selection."""

    def __init__(
        self, arrays: Mapping[str, npt.NDArray[Any]], params: Mapping[str, Any], device: torch.device
    ) -> None:
        self._embeddings = torch.tensor(arrays["embeddings"], device=device)
        self._n, self._dim = self._embeddings.shape
        self._codes = torch.tensor(arrays["codes"], device=device)
        self._rows = torch.tensor(arrays["code_rows"], device=device).long()
        centres = arrays["cell_centres"]
        padded = np.zeros((int8.width(len(centres)), centres.shape[1]), dtype=np.int8)
        padded[: len(centres)] = centres
        self._centres, self._cells = torch.tensor(padded, device=device), len(centres)
        self._margin = int(arrays["cell_margin"][0])
        starts = arrays["cell_starts"]
        self._cell = torch.tensor(np.repeat(np.arange(len(centres)), np.diff(starts)), device=device)
        self._squares = torch.tensor(arrays["squares"], device=device)
        self._scale = float(arrays["code_scale"][0])
        self._count = min(params["n_neighbors"], self._n)
        self._short = shortlist_length(self._n, params["n_neighbors"])
        self._cosine = params["metric"] == "cosine"

    def search(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows and distances, (m, k), nearest first, and the largest cosines, (m,)."""
        m = len(queries)
        padded = max(_LEAST_QUERIES, int8.width(m))
        rounded = torch.zeros((padded, self._codes.shape[1]), dtype=torch.int8, device=queries.device)
        rounded[:m, : self._dim] = (queries.double() * self._scale).round().clamp(-127, 127).to(torch.int8)
        near = int8.int8_product(rounded, self._centres)[:m, : self._cells]
        read = near >= near.amax(1, keepdim=True) - self._margin
        scores = int8.int8_product(rounded, self._codes)[:m].long()
        scores = torch.where(read[:, self._cell] & (self._rows >= 0), scores, _NOT_READ)
        places = torch.arange(len(self._rows), device=queries.device)
        chosen = ((scores << 24) - places).topk(self._short, dim=1).indices
        rows = self._rows[chosen].sort(dim=1).values
        return self._rank(queries.double(), rows)

    def _rank(
        self, queries: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        products = torch.bmm(self._embeddings[rows].double(), queries[:, :, None])[:, :, 0]
        own = torch.bmm(queries[:, None, :], queries[:, :, None])[:, 0]
        squares = self._squares[rows]
        cosines = products / (squares * own).sqrt()
        distances = 1.0 - cosines if self._cosine else (squares + own - 2.0 * products).clamp(min=0.0).sqrt()
        distances, order = distances.sort(dim=1, stable=True)
        rows = rows.gather(1, order[:, : self._count])
        return rows, distances[:, : self._count].clamp(min=0.0), cosines.amax(1).clamp(max=1.0)
