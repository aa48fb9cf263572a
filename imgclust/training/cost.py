"""What a fit will cost, said and checked before its long part begins."""

from __future__ import annotations

import dataclasses
import math

from imgclust.errors import FitError
from imgclust.support.machine import available_cores, available_memory
from imgclust.training.coassociation import LINKED
from imgclust.training.parameters import Parameters, consensus_size, sample_size
from imgclust.types import Floats

LIBRARIES = 1_000_000_000  # bytes that torch, numba, umap and what they compile take before any data
REFITTING = 800_000_000  # bytes that they take in another process that refits
STARTING, REFIT = 5.0, 0.5  # seconds until that has imported them, and of a refit beside its UMAP
LINKING = 5e-8  # seconds for each pair of images that refits are asked about


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What a fit takes: bytes of memory at its peak, seconds on cores of about 3 GHz.

    Attributes:
        processes: that refit side by side; 0: there is no consensus.
    """

    memory: int
    seconds: float
    processes: int = 0


def estimate(n: int, dim: int, total: int, p: Parameters, processes: int = 1) -> Cost:
    """Of fitting n of `total` embeddings of `dim` numbers, with refits in so many processes.

    Memory: the embeddings as float16 and float32; UMAP's own float32 copies and its graph (130 bytes an edge
    while it is made); HDBSCAN's neighbour lists, 17 bytes for each of n × min_samples.
    Time: lines through fits of 1,500 to 150,000 images, on two cores.
    """
    embeddings = total * dim * 6
    hdbscan = n * p.min_samples * 17 + n * 400
    sampled = p.refits * sample_size(n) ** 2 / n if p.cluster_selection_method == "stable" else 0
    memory = max(_umap_memory(n, dim, p), n * dim * 8 + hdbscan)
    seconds = 20 + total * 1e-4 + _umap_seconds(n, p) + (n + sampled) * p.min_samples * 1.5e-7
    if p.consensus:
        m = consensus_size(n)
        memory = max(memory, processes * _umap_memory(m, dim, p) + (processes - 1) * REFITTING)
        seconds += math.ceil(p.consensus / processes) * (REFIT + _umap_seconds(m, p))
        seconds += STARTING if processes > 1 else 0
        linked = min(n, LINKED)
        memory = max(memory, linked**2 * 8)
        seconds += n * linked * LINKING
    return Cost(int(LIBRARIES + embeddings + memory), seconds, processes if p.consensus else 0)


def _umap_memory(n: int, dim: int, p: Parameters) -> int:
    return n * dim * 8 + n * p.n_neighbors * 130


def _umap_seconds(n: int, p: Parameters) -> float:
    return n * (p.n_epochs / 300) * p.n_neighbors * 8e-6


def affordable(n: int, rows: Floats, parameters: Parameters) -> Cost:
    """What fitting n of the rows will cost, with refits side by side where that is possible and faster.

    Raises:
        FitError: there is not enough memory.
    """
    there = available_memory()
    most = math.inf if there is None else there + rows.nbytes  # the rows are in memory already
    processes = range(1, max(1, min(available_cores(), parameters.consensus)) + 1)
    costs = [estimate(n, rows.shape[1], len(rows), parameters, count) for count in processes]
    if costs[0].memory <= most:
        return min((cost for cost in costs if cost.memory <= most), key=lambda cost: cost.seconds)
    raise FitError(
        f"fitting {n} images needs about {costs[0].memory / 1e9:.1f} GB of memory, "
        f"{most / 1e9:.1f} GB are available: train on fewer (max_train, now {n}) "
        f"or lower min_samples (now {parameters.min_samples})"
    )
