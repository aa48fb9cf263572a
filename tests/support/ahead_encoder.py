"""An encoder on a device that goes on by itself, without a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from imgclust.types import Floats, Pixels
from tests.support.fake_encoder import FakeEncoder


class AheadEncoder(FakeEncoder):
    """Looks at its pictures when they are taken, not when they are put: as late as a device may.

    Attributes:
        most: pictures in a batch.
        missing: so many batches find no memory.
        deepest: most batches that were under way at once.
    """

    def __init__(self, most: int = 4, bad: frozenset[int] = frozenset(), missing: int = 0) -> None:
        super().__init__(bad=bad)
        self.most, self.missing = most, missing
        self.deepest = 0
        self.registered: Pixels | None = None
        self._under_way: deque[Sequence[Pixels]] = deque()

    @property
    def full(self) -> bool:
        return len(self._under_way) == 2

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def put(self, pictures: Sequence[Pixels]) -> None:
        assert len(pictures) <= self.most
        assert not self.full
        if self.missing:
            self.missing -= 1
            raise MemoryError("out of memory")
        self._under_way.append(pictures)
        self.deepest = max(self.deepest, len(self._under_way))

    def take(self) -> Floats:
        return super().encode(np.stack(self._under_way.popleft()))

    def encode(self, pixels: Pixels) -> Floats:
        assert not self._under_way, "nothing else is asked of it meanwhile"
        return super().encode(pixels)

    def register(self, memory: Pixels) -> str | None:
        self.registered = memory
        return None

    def unregister(self) -> None:
        self.registered = None
