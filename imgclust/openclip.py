"""open_clip models: by name and pretrained tag, or from a local checkpoint."""

from __future__ import annotations

from pathlib import Path

from imgclust.encoder import Network
from imgclust.errors import EncoderError


def load(name: str, weights: Path | None = None) -> Network:
    raise EncoderError(f"unknown encoder {name!r}")
