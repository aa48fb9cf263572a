"""What every encoder's network is to the rest: a module, its preprocessing, and the hash of its weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from imgclust.types import Floats, Preprocessing


@dataclasses.dataclass(frozen=True)
class Network:
    """An image tower on the CPU in float32, with all that is known of it.

    Attributes:
        visual: normalised pixels (n, 3, size, size) → features (n, dim).
        vocabulary: phrases, or None for its own → names and unit-norm vectors (m, dim) in the feature space.
        embed_texts: texts → unit-norm vectors (m, dim); None where there is no text tower.
    """

    name: str
    architecture: str
    visual: torch.nn.Module
    preprocessing: Preprocessing
    vocabulary: Callable[[Sequence[str] | None], tuple[list[str], Floats]]
    embed_texts: Callable[[Sequence[str]], Floats] | None = None
    licence: str | None = None


def hash_weights(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over (name, dtype, shape, bytes) of the tensors in name order: the weights, not their file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unit(vectors: Floats) -> Floats:
    """Rows scaled to length 1 (float32)."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled
