"""Embeddings as 8-bit integers, whose products any processor adds up without rounding."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

FINEST = 4000.0  # scale of the codes: sums of a unit vector's products stay below 2**24, exact in float32
_PART = 8192  # rows that are rounded at once

Halves = npt.NDArray[np.float16]
Codes = npt.NDArray[np.int8]
Product = Callable[..., torch.Tensor]  # (a, b, out=None)


def width(dim: int) -> int:
    """Numbers per row of codes, which CUDA's int8 product wants to be a multiple of 8."""
    return -(-dim // 8) * 8


def scale_of(embeddings: Halves) -> float:
    """What embeddings, float16 (n, D), are multiplied with before they are rounded."""
    largest = max(float(np.abs(embeddings[i : i + _PART]).max()) for i in range(0, len(embeddings), _PART))
    return min(127.0 / largest, FINEST)


def encode(rows: npt.NDArray[Any], scale: float) -> Codes:
    """Round rows, float16 or float32 (m, D), to int8 (m, `width(D)`)."""
    m, dim = rows.shape
    codes = np.zeros((m, width(dim)), dtype=np.int8)
    for i in range(0, m, _PART):
        codes[i : i + _PART, :dim] = np.clip(
            np.rint(rows[i : i + _PART].astype(np.float64) * scale), -127, 127
        )
    return codes


def squares_of(embeddings: Halves) -> npt.NDArray[np.float64]:
    """Squared lengths, float64 (n,), exact: see `neighbours`."""
    squares = np.empty(len(embeddings))
    for i in range(0, len(embeddings), _PART):
        part = embeddings[i : i + _PART].astype(np.float64)
        squares[i : i + _PART] = (part * part).sum(1)
    return squares


def sums_of(codes: torch.Tensor) -> npt.NDArray[np.int32]:
    """The sum of each row of codes."""
    return torch.sum(codes, 1, dtype=torch.int32).numpy()


def product(dim: int) -> Product:
    """The product a @ b.T of int8 matrices as int32 that is exact on this processor.

    Some kernels for processors without VNNI add pairs of products in 16 bits, and saturate: extreme values
    show it.
    """
    a = torch.full((32, dim), 127, dtype=torch.int8)
    b = torch.full((32, dim), -127, dtype=torch.int8)
    b[::2] = 127
    a[1::2] = -127
    try:
        exact = bool((int8_product(a, b).long() == a.long() @ b.long().t()).all())
    except RuntimeError:  # a build of torch without the kernel
        exact = False
    return int8_product if exact else float_product


def int8_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """a @ b.T as int32, for processors and GPUs."""
    return torch._int_mm(a, b.t(), out=out) if out is not None else torch._int_mm(a, b.t())


def float_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The same in float32: partial sums stay below 2**24, so that no addition rounds."""
    scores = a.float() @ b.float().t()
    return out.copy_(scores) if out is not None else scores.to(torch.int32)


def shared(array: npt.NDArray[Any]) -> torch.Tensor:
    """The array as a tensor, not copied; nothing writes to it, so that it may be read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
