"""What all tests here share: processes that decode (`DecoderPool`'s own tests start theirs); rough maps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.support import fitted


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


@pytest.fixture(scope="session", autouse=True)
def maps_are_rough() -> Iterator[None]:
    with fitted.rough_maps():
        yield
