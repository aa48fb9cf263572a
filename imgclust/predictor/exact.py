"""Arithmetic whose last bit is the same for any batch, thread and processor of a family.

Only correctly rounded operations (+ − × ÷ √, comparisons) on each element by itself, in a fixed order. Left
out on purpose: `exp`, `pow` and `log` (libraries answer differently in SIMD bodies and scalar tails), `sum`
(its order depends on shape and alignment), matrix products of anything but small integers. Works on numpy
arrays and on torch tensors alike: `xp` is the module of what is given, `numpy` or `torch`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01  # 33 bits, so that n * _LN2_HIGH is exact (fdlibm, e_exp.c)
_LN2_LOW = 1.90821492927058770002e-10
_TAYLOR = [
    1.0 / f for f in (40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0)
]  # of exp, degree 8 to 0

BINS = 512  # table entries per power of two: the function of the middle is off by 1/1024 of its slope at most
SHIFT = 23 - 9  # of float32's 23 mantissa bits the table's index keeps 9
_LOWEST, _HIGHEST = -30, 17  # powers of two that a table covers; beyond them it answers for its ends
BASE = (_LOWEST + 127) * BINS

_SMALL = 4096  # numbers below which the calls cost more than the arithmetic


def exp(x: Any) -> Any:
    """e**x for x ≤ 0, float64, relative error below 1e-9; 0 below -700."""
    xp = module(x)
    clamped = clip(x, -700.0, 0.0)
    n = xp.floor(clamped * _LOG2_E + 0.5)
    r = (clamped - n * _LN2_HIGH) - n * _LN2_LOW
    total = xp.full_like(r, _TAYLOR[0])
    for term in _TAYLOR[1:]:
        total = total * r + term
    int64 = xp.int64
    bits = (n.astype(int64) if xp is np else n.to(int64)) + 1023
    return xp.where(x < -700.0, 0.0, total * (bits << 52).view(xp.float64))


def module(x: Any) -> Any:
    """numpy or torch: whose array `x` is."""
    return np if isinstance(x, np.ndarray) else torch


def pick(x: Any, index: Any) -> Any:
    """`x[..., index]`; numpy's indexing would hold the interpreter's lock, and take four times as long."""
    return x.take(index, axis=-1) if isinstance(x, np.ndarray) else x[..., index]


def keep(x: Any, mask: Any) -> Any:
    """`x[mask]` of a list."""
    return x.compress(mask) if isinstance(x, np.ndarray) else x[mask]


def repeat(x: Any, counts: Any) -> Any:
    """Each element of a list `counts` times."""
    return x.repeat(counts) if isinstance(x, np.ndarray) else x.repeat_interleave(counts)


def arange(n: int, like: Any) -> Any:
    """0 to n - 1 as int64, where `like` is."""
    return np.arange(n) if isinstance(like, np.ndarray) else torch.arange(n, device=like.device)


def zeros(shape: tuple[int, ...], like: Any) -> Any:
    """float32 zeros, where `like` is."""
    if isinstance(like, np.ndarray):
        return np.zeros(shape, dtype=np.float32)
    return torch.zeros(shape, device=like.device)


def contiguous(x: Any) -> Any:
    """The same numbers, the last axis densest."""
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x.contiguous()


def single(x: Any) -> Any:
    """As float32, rounded to nearest."""
    return x.astype(np.float32) if isinstance(x, np.ndarray) else x.float()


def double(x: Any) -> Any:
    """As float64."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x.double()


def clip(x: Any, low: float, high: float) -> Any:
    """As `clip` of either module; numpy's own takes longer to begin, and a sixth of the time per number."""
    if isinstance(x, np.ndarray) and x.size < _SMALL:
        return np.minimum(np.maximum(x, low), high)
    return x.clip(low, high)


def largest(x: Any, axis: int) -> Any:
    """The largest along an axis."""
    return np.maximum.reduce(x, axis) if isinstance(x, np.ndarray) else x.amax(axis)


def quotient(x: Any, y: Any) -> Any:
    """x / y, one of which is a number. On a GPU torch multiplies by a number's inverse, and on all devices a
    number by an array's, which rounds twice."""
    if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
        return x / y
    if isinstance(y, torch.Tensor):
        return torch.full_like(y, x) / y
    return x / torch.full_like(x, y)


def running_product(x: Any) -> Any:
    """Products of the first, the first two, … along the first axis; torch's, which lets other threads run."""
    if isinstance(x, np.ndarray):
        return torch.cumprod(torch.from_numpy(x), 0).numpy()
    if x.shape[1] > 1:
        return x.cumprod(0)
    # on a GPU a thread goes down each column, but many share a single one, in an order of their own
    return torch.cat([x, x], 1).cumprod(0)[:, :1]


def flip(x: Any) -> Any:
    """The first axis the other way round."""
    return x[::-1] if isinstance(x, np.ndarray) else x.flip(0)


def ordered_sum(x: Any) -> Any:
    """Sum over the first axis, halves added to halves: the order depends on its length alone."""
    length = len(x)
    while length > 1:
        half = length >> 1
        halves = x[:half] + x[half : 2 * half]
        if length & 1:
            halves[0] += x[length - 1]
        x, length = halves, half
    return x[0]


def squared_lengths(x: Any) -> Any:
    """Sum of squares over the second axis, added up in its order."""
    squares = x * x
    if squares.shape[1] == 1:
        return squares[:, 0]
    total = squares[:, 0] + squares[:, 1]
    for axis in range(2, squares.shape[1]):
        total += squares[:, axis]
    return total


def table(function: Any) -> npt.NDArray[np.float32]:
    """Tabulate a function of a positive number for `lookup`: one value per bin, at the bin's middle.

    Computed once, when a model is frozen: a later prediction needs no transcendental function.
    """
    size = (_HIGHEST - _LOWEST) * BINS
    left = ((np.arange(size + 1) + BASE).astype(np.int32) << SHIFT).view(np.float32).astype(np.float64)
    return np.asarray(function((left[:-1] + left[1:]) / 2), dtype=np.float32)


def lookup(values: Any, x: Any) -> Any:
    """The tabulated function of float32 x ≥ 0: bins of equal width within each power of two."""
    xp = module(x)
    index = (x.view(xp.int32) >> SHIFT) - BASE
    if xp is np:
        return values.take(index, mode="clip")
    return values[xp.clip(index, 0, len(values) - 1).to(xp.int64)]
