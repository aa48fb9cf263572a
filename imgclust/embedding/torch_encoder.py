"""Pixels → unit-norm embeddings on a device of torch, whatever the network.

An embedding is a function of the picture alone, bit for bit: batches are padded to a few shapes that round
alike, or to a single one where they do not, for the library and the worker alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from imgclust.embedding.batch_invariance import CPU_BATCH, is_batch_invariant, make_batch_invariant
from imgclust.embedding.network import Network, hash_weights
from imgclust.errors import EncoderError
from imgclust.support.forks import one_thread_after_a_fork
from imgclust.support.machine import is_out_of_memory, keep_freed_memory
from imgclust.types import EncoderIdentity, Floats, Pixels

MAX_BATCH = 64
ONE_SHAPE = 4  # on a processor where shapes round differently: most pictures come in batches

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def shapes_up_to(most: int) -> tuple[int, ...]:
    """1, 2, 4 … up to `most`. Others round differently on some processors."""
    return tuple(1 << i for i in range(most.bit_length()))


def pieces(n: int, shapes: Sequence[int]) -> list[slice]:
    """n pictures in parts, each to be padded to one of the shapes (ascending), the largest first."""
    found, start = [], 0
    while start < n:
        shape = next((s for s in shapes if s >= n - start), shapes[-1])
        found.append(slice(start, start + shape))
        start += shape
    return found


def _padded(pixels: Pixels, n: int) -> Pixels:
    """Black pictures added up to n; torch wants memory that is contiguous, forwards and writable."""
    forwards = min(pixels.strides) > 0  # numpy calls a single picture of a reversed array contiguous
    if len(pixels) == n and forwards and pixels.flags.c_contiguous and pixels.flags.writeable:
        return pixels
    batch = np.zeros((n, *pixels.shape[1:]), np.uint8)
    batch[: len(pixels)] = pixels
    return batch


class TorchEncoder:
    """An image tower on a device; see `imgclust.types.Encoder` for the contract."""

    def __init__(
        self, network: Network, device: torch.device, precision: str, max_batch: int = MAX_BATCH
    ) -> None:
        if max_batch < 1:
            raise EncoderError(f"max_batch must be at least 1, got {max_batch}")
        p = network.preprocessing
        self._network, self._device = network, device
        self._dtype = PRECISIONS[precision]
        if device.type == "cpu":
            keep_freed_memory()
            one_thread_after_a_fork()
        weights = hash_weights(network.visual.state_dict())  # before the precision changes their bytes
        self._visual = network.visual.eval().requires_grad_(False).to(device, self._dtype)
        if device.type == "cpu":
            make_batch_invariant(self._visual)
        self._mean = torch.tensor(p.mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(p.std, device=device).view(1, 3, 1, 1) * 255
        self._shapes = self._choose_shapes(p.size, max_batch)
        blank = np.zeros((self._shapes[0], p.size, p.size, 3), np.uint8)
        dim = self._features(blank).shape[1]
        self._identity = EncoderIdentity(
            network.name, network.architecture, weights, p, precision, dim, network.licence
        )

    def _choose_shapes(self, side: int, max_batch: int) -> tuple[int, ...]:
        if self._device.type != "cpu":  # kernels are chosen by shape: nothing but one shape keeps the bits
            return (max_batch,)
        shapes = shapes_up_to(min(max_batch, CPU_BATCH))
        if is_batch_invariant(lambda pixels: self._features(pixels).numpy(), side, shapes):
            return shapes
        return (min(max_batch, ONE_SHAPE),)

    @property
    def shapes(self) -> tuple[int, ...]:
        """Lengths of the batches that the device sees; all of them give a picture the same bits."""
        return self._shapes

    @property
    def identity(self) -> EncoderIdentity:
        return self._identity

    @property
    def device(self) -> str:
        return str(self._device)

    def encode(self, pixels: Pixels) -> Floats:
        """See `imgclust.types.Encoder.encode`.

        Raises:
            ValueError: pixels of another shape or type.
            EncoderError: the network answers with numbers that are not finite.
        """
        side = self._identity.preprocessing.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, 3):
            raise ValueError(
                f"expected uint8 (n, {side}, {side}, 3), got {pixels.dtype} {tuple(pixels.shape)}"
            )
        if not len(pixels):
            return np.zeros((0, self._identity.dim), np.float32)
        rows = self._as_memory_allows(pixels)
        if not np.isfinite(rows).all():
            raise EncoderError(
                f"{self._identity.name} in {self._identity.precision} gave numbers that are not finite "
                f"for a batch of {len(pixels)}"
            )
        return rows

    def _as_memory_allows(self, pixels: Pixels) -> Floats:
        while True:
            try:
                return self._encode(pixels)
            except Exception as error:
                if not is_out_of_memory(error) or not self._shrink():
                    raise

    def _shrink(self) -> bool:
        """After an error for want of memory: take less of it from now on; False: it cannot be."""
        return self._device.type != "cpu" and self._halve()

    def _halve(self) -> bool:
        """Where all batches have one shape fewer pictures take no less memory: the shape becomes shorter."""
        (shape,) = self._shapes
        if shape == 1:
            return False
        self._shapes = (shape // 2,)
        warnings.warn(
            f"no memory for a batch of {shape} on {self._device}: from now on batches have {shape // 2}, "
            "and the last bits of embeddings may differ from those of before; a smaller WORKER_MAX_BATCH, or "
            "more memory, avoids it",
            RuntimeWarning,
            stacklevel=2,
        )
        return True

    def _encode(self, pixels: Pixels) -> Floats:
        return np.concatenate([self._encode_part(pixels[part]) for part in pieces(len(pixels), self._shapes)])

    def _encode_part(self, pixels: Pixels) -> Floats:
        n = len(pixels)
        shape = next(shape for shape in self._shapes if shape >= n)
        batch = torch.from_numpy(_padded(pixels, shape)).to(self._device)
        return self._rows(batch)[:n].cpu().numpy()

    @torch.inference_mode()
    def _rows(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 (n, size, size, 3) on the device → unit rows that hold float16 values, float32 (n, dim)."""
        return torch.nn.functional.normalize(self._tower(batch), dim=1).half().float()

    def _features(self, batch: Pixels) -> torch.Tensor:
        """uint8 (n, size, size, 3) → float32 (n, dim), not normalised, on the device."""
        return self._tower(torch.from_numpy(batch).to(self._device))

    @torch.inference_mode()
    def _tower(self, batch: torch.Tensor) -> torch.Tensor:
        # two passes over the pixels: bytes become floats in the first, and lose their precision in the second
        x = batch.permute(0, 3, 1, 2) - self._mean
        x = torch.div(x, self._std, out=torch.empty_like(x, dtype=self._dtype))
        features: torch.Tensor = self._visual(x)
        return features.float()

    def vocabulary(self, phrases: Sequence[str] | None = None) -> tuple[list[str], Floats]:
        """Names for clusters, and their places in the embedding space.

        Args:
            phrases: your own words; by default what fits the encoder (ImageNet's classes for `mini`, phrases
                for user-generated content for open_clip models).

        Returns:
            m names, and float32 (m, dim): unit-norm rows.

        Raises:
            EncoderError: own words, and an encoder without a text tower.
        """
        if phrases is not None and self._network.embed_texts is None:
            raise EncoderError(self._no_text_tower())
        return self._network.vocabulary(phrases)

    def _no_text_tower(self) -> str:
        return (
            f"the encoder {self._identity.name!r} cannot read text, so it cannot use words of your own; "
            f"use an open_clip model such as ViT-B-32/laion2b_s34b_b79k"
        )

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts into the space of the images.

        Returns:
            float32 (len(texts), dim): unit-norm rows.

        Raises:
            EncoderError: the encoder has no text tower (`mini`).
        """
        if self._network.embed_texts is None:
            raise EncoderError(self._no_text_tower())
        return self._network.embed_texts(texts)
