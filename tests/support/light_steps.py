"""For tests on other engines, where they travel by name: an encoder without torch, a decoder that crashes."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

from imgclust.engines.steps import EmbedOptions
from imgclust.images import decode as real
from imgclust.types import Floats, Pixels, Preprocessing
from tests.support.fake_encoder import FakeEncoder

CRASH = b"do:crash"  # behind the end of a picture


def decode(data: bytes, preprocessing: Preprocessing, limits: real.Limits, **options: Any) -> Any:
    """As `imgclust.images.decode.decode`, but for a picture that crashes its codec."""
    if data.endswith(CRASH):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(3600)
    return real.decode(data, preprocessing, limits, **options)


@dataclasses.dataclass(frozen=True, slots=True)
class LightOptions(EmbedOptions):
    """Encodes with `FakeEncoder`, and decodes in one process with the decoder above.

    Attributes:
        actors: a folder, where each actor leaves a file named by its node and process.
        killed: a file; the first actor that encodes while it is not there has Ray kill it, in the middle.
    """

    actors: str = ""
    killed: str = ""
    workers: int | None = 1
    decode: str = "tests.support.light_steps:decode"

    def encoder(self) -> FakeEncoder:
        return _Encoder(self)


class _Encoder(FakeEncoder):
    def __init__(self, options: LightOptions) -> None:
        super().__init__(options.identity)
        self._killed = options.killed
        if options.actors:
            import ray

            node = ray.get_runtime_context().get_node_id()
            (Path(options.actors) / f"{node} {os.getpid()}").touch()

    def encode(self, pixels: Pixels) -> Floats:
        if self._killed and not Path(self._killed).exists():
            import ray

            Path(self._killed).touch()
            ray.kill(ray.get_runtime_context().current_actor, no_restart=False)
            time.sleep(3600)
        return super().encode(pixels)
