"""What a search for parameters is after: aims, stated by whoever searches, and how well figures meet them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from imgclust.errors import FitError

NAMES = ("clusters", "other", "stability", "validity", "ami")


@dataclasses.dataclass(frozen=True, slots=True)
class TrialFigures:
    """What is measured of one choice of parameters, on the training images.

    Attributes:
        clusters: how many.
        other: share of the images in none of them.
        stability: mean over the images in clusters, 0..1; see `imgclust.training.selection`.
        validity: hdbscan's relative validity, -1..1: how much denser clusters are than what parts them.
        ami: adjusted mutual information with the labels, "other" being one more cluster; None: no labels.
    """

    clusters: int
    other: float
    stability: float
    validity: float
    ami: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Aim:
    """One aim.

    Attributes:
        name: of `NAMES`.
        least, most: of "clusters": so many; of "other": at most `most`. For others they say nothing.
    """

    name: str
    least: float = 0.0
    most: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Aim:
        """`clusters=10..30`, `other`, `other=10%`, `stability`, `validity`, `ami`.

        Raises:
            FitError: it is none of these.
        """
        name, _, value = text.partition("=")
        try:
            if name == "clusters":
                least, dots, most = value.partition("..")
                aim = cls(name, int(least), int(most if dots else least))
                if not 1 <= aim.least <= aim.most:
                    raise ValueError
                return aim
            if name == "other" and value:
                aim = cls(name, 0.0, float(value.removesuffix("%")) / (100 if value.endswith("%") else 1))
                if not 0 <= aim.most < 1:
                    raise ValueError
                return aim
            if name not in NAMES or value:
                raise ValueError
        except ValueError:
            raise FitError(
                "an aim is clusters=10..30, other, other=10%, stability, validity or ami (with labels); got "
                f"{text!a:.60}"
            ) from None
        return cls(name)

    def __str__(self) -> str:
        if self.name == "clusters":
            return f"clusters={self.least:.0f}..{self.most:.0f}"
        return f"other={self.most:.3g}" if self.most else self.name

    def met(self, found: TrialFigures) -> float:
        """How well figures meet it: 0..1."""
        if self.name == "clusters":
            if found.clusters < self.least:
                return found.clusters / self.least
            return min(1.0, self.most / found.clusters)
        if self.name == "other":
            return min(1.0, (1 - found.other) / (1 - self.most))
        value = {"stability": found.stability, "validity": found.validity, "ami": found.ami}[self.name]
        return min(1.0, max(0.0, value or 0.0))


def score(aims: Sequence[Aim], found: TrialFigures) -> float:
    """The mean of how well each aim is met, 0..1."""
    return sum(aim.met(found) for aim in aims) / len(aims)


def best_compromises(aims: Sequence[Aim], trials: Sequence[TrialFigures]) -> list[bool]:
    """Which trials no other one beats: at least as good for every aim, and better for one."""
    met = [tuple(aim.met(found) for aim in aims) for found in trials]
    return [
        not any(all(b >= a for a, b in zip(own, other, strict=True)) and other != own for other in met)
        for own in met
    ]
