"""The same picture, the same bits: rounding that depends neither on the batch nor on the number of threads.

Two things of a network round differently for few pictures than for many on a processor: torch sends 1×1
convolutions of small batches elsewhere than to oneDNN, and products with few rows have kernels of their own.
Both go away here, and `is_batch_invariant` checks that nothing else is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from imgclust.types import Pixels

# on a processor larger batches save nothing, and take more memory for the activations of a layer
CPU_BATCH = 4
_LEAST_ROWS = 4  # of most products, from which on they round as larger ones do
_HEADS = ("attnpool", "head", "trunk.attn_pool")  # of open_clip's towers: what sees one row a picture


class _OneDnnConvolution(torch.nn.Module):
    """A convolution that oneDNN computes for every batch."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.convolution
        y: torch.Tensor = torch.mkldnn_convolution(
            x, c.weight, c.bias, (0, 0), c.stride, c.dilation, c.groups
        )
        return y


class AtLeast(torch.nn.Module):
    """A module that never sees fewer than so many rows: zeros are added, and their results left out."""

    def __init__(self, module: torch.nn.Module, rows: int) -> None:
        super().__init__()
        self.module, self.rows = module, rows

    def forward(self, x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        n = len(x)
        if n < self.rows:
            x = torch.cat([x, x.new_zeros(self.rows - n, *x.shape[1:])])
        y: torch.Tensor = self.module(x, *more, **named)
        return y[:n]


def make_batch_invariant(tower: torch.nn.Module) -> None:
    """Replace what rounds differently for small batches. The weights stay, some under other names."""
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Conv2d and _goes_elsewhere(child):
                setattr(parent, name, _OneDnnConvolution(child))
    separate_projection = getattr(tower, "separate_projection", None)
    if callable(separate_projection):
        separate_projection()
    modules = dict(tower.named_modules())
    for head in _HEADS:
        path, _, name = f"visual.{head}".rpartition(".")
        if f"{path}.{name}" in modules:
            setattr(modules[path], name, AtLeast(modules[f"{path}.{name}"], _LEAST_ROWS))


def _goes_elsewhere(convolution: torch.nn.Conv2d) -> bool:
    return (
        convolution.kernel_size == (1, 1)
        and convolution.padding == (0, 0)
        and convolution.weight.dtype == torch.float32
        and torch._C._has_mkldnn
    )


def is_batch_invariant(encode: Callable[[Pixels], np.ndarray], side: int, shapes: Sequence[int]) -> bool:
    """Whether pictures get the same bits in batches of all shapes, in one thread and in as many as there are.

    Args:
        encode: uint8 (n, side, side, 3) → rows, n of `shapes`.
        shapes: ascending.
    """
    noise = np.random.default_rng(0).integers(0, 256, (shapes[-1], side, side, 3), np.uint8)
    threads = torch.get_num_threads()
    expected = encode(noise)
    if any(encode(noise[:n]).tobytes() != expected[:n].tobytes() for n in shapes[:-1]):
        return False
    if threads == 1:
        return True
    try:
        torch.set_num_threads(1)
        ends = {shapes[0], shapes[-1]}
        return all(encode(noise[:n]).tobytes() == expected[:n].tobytes() for n in ends)
    finally:
        torch.set_num_threads(threads)
