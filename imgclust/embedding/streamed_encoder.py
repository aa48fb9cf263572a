"""An encoder on a device that goes on by itself: the next batch is copied while the last one is encoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from imgclust.embedding.encode_stream import Device, EncodeStream
from imgclust.embedding.network import Network
from imgclust.embedding.torch_encoder import MAX_BATCH, TorchEncoder
from imgclust.types import Floats, Pixels


class StreamedEncoder(TorchEncoder):
    """See `imgclust.types.StreamingEncoder` for the contract. One thread at a time.

    Args:
        streams: of `device`.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        precision: str,
        max_batch: int = MAX_BATCH,
        *,
        streams: Device,
    ) -> None:
        super().__init__(network, device, precision, max_batch)
        self._streams = streams
        self._stream: EncodeStream | None = None

    def _choose_shapes(self, side: int, max_batch: int) -> tuple[int, ...]:
        return (max_batch,)  # kernels are chosen by shape: nothing but one shape keeps the bits

    @property
    def _running(self) -> EncodeStream:
        if self._stream is None:
            identity = self.identity
            self._stream = EncodeStream(
                self._streams,
                self._rows,
                batch=self.most,
                side=identity.preprocessing.size,
                dim=identity.dim,
            )
        return self._stream

    @property
    def most(self) -> int:
        return self.shapes[-1]

    @property
    def full(self) -> bool:
        return self._stream is not None and self._stream.full

    @property
    def under_way(self) -> int:
        return 0 if self._stream is None else self._stream.under_way

    def put(self, pictures: Sequence[Pixels]) -> None:
        self._running.put(pictures)

    def take(self) -> Floats:
        return self._running.take()

    def register(self, memory: Pixels) -> str | None:
        return self._streams.register(memory)

    def unregister(self) -> None:
        self._streams.unregister()

    def _encode(self, pixels: Pixels) -> Floats:
        return self._running.encode(list(np.require(pixels, requirements=["C", "W"])))

    def _shrink(self) -> bool:
        if not self._halve():
            return False
        self._stream = None  # with its buffers and its graph
        self._streams.release_cached()
        return True
