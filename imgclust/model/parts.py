"""The parts that a model is made of."""

from __future__ import annotations

import dataclasses

UNIT = 0.01  # how far from 1 the length of an embedding may be; float16 values leave less than 0.001


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster: its number in the taxonomy, its name (None: no name is good enough), its training images.

    Attributes:
        size: training images in it.
        exemplars: ids of its most typical training images, the most typical first.
    """

    id: int
    name: str | None
    size: int
    exemplars: tuple[str, ...] = ()
