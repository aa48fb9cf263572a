"""A small tower of random weights, as an encoder."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.fake_device import FakeDevice
from imgclust.embedding.network import Network
from imgclust.embedding.streamed_encoder import StreamedEncoder
from imgclust.types import Preprocessing

SIDE = 8


def tower_network() -> Network:
    torch.manual_seed(0)
    tower = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Flatten(), torch.nn.Linear(16, 6))
    nothing: Any = None
    return Network("tower", "tower", tower, Preprocessing(SIDE, SIDE), vocabulary=nothing)


def streamed_tower(device: FakeDevice, max_batch: int = 8) -> StreamedEncoder:
    return StreamedEncoder(tower_network(), torch.device("cpu"), "float32", max_batch, streams=device)
