"""Processes that decode are started once for all tests here; `DecoderPool`'s own tests start theirs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def decoders_stay() -> Iterator[None]:
    from imgclust.embedding import stream
    from imgclust.images.decode import Limits
    from imgclust.images.decoder_pool import DecoderPool
    from imgclust.types import Preprocessing

    class Shared(DecoderPool):
        def __exit__(self, *_: object) -> None:
            """Others use it."""

    @cache
    def pool(preprocessing: Preprocessing, limits: Limits, hashed: bool) -> DecoderPool:
        return Shared(1, preprocessing, limits, hashed=hashed)

    def shared(_: int, preprocessing: Preprocessing, limits: Limits, **options: Any) -> DecoderPool:
        return pool(preprocessing, limits, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "DecoderPool", shared)
        yield
