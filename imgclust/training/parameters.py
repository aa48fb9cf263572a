"""The parameters of a fit, as a function of the number of training images alone."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

from imgclust.errors import FitError

Count = int | tuple[int, int]  # so many, or at least and at most so many

MIN_IMAGES = 50
MAX_CLUSTERS = 10_000
RECIPES = ("steady", "article")
SEED = 35  # the published recipe's
SAMPLED = 40_000  # images of a sample; larger ones cost more than UMAP and say the same of large clusters
CONSENSUS_IMAGES = 10_000  # up to how many training images there is a consensus
LEAST_REFITS, MOST_REFITS, REFITTED = 12, 24, 60_000  # refits of a consensus; images that they have together


@dataclasses.dataclass(frozen=True, slots=True)
class Parameters:
    """Of UMAP, of HDBSCAN, and of the choice of clusters.

    `for_size(n)` gives the defaults, `of_recipe("article", n)` the published recipe. See
    `docs/decisions/0020-parameters-by-size.md` and `docs/decisions/0027-steady-clusters.md`.

    Attributes:
        cluster_selection_method: "stable" (see `imgclust.training.selection`), or hdbscan's "eom" or "leaf".
        max_cluster_share: of the training images; a larger cluster has to be far steadier than what lies
            below it ("stable"), or is not chosen ("eom"; 1 is no limit).
        min_clusters, max_clusters: how many there must be, chosen from the tree; 0: as many as there are.
        levels: 2: groups above the clusters, too; see `imgclust.training.levels`.
        min_groups, max_groups: how many groups there must be; 0: as many as there are.
        consensus: whole refits on samples. UMAP keeps the clusters apart that they agree on, and they say how
            stable clusters are (see `imgclust.training.consensus`); 0: one UMAP decides.
        refits: of HDBSCAN alone, on samples of UMAP's points, that say how stable clusters are where there
            is no consensus; 0 with "eom" and "leaf": it stays unknown.
    """

    n_neighbors: int
    min_cluster_size: int
    min_samples: int
    n_components: int = 5
    min_dist: float = 0.03
    n_epochs: int = 300
    metric: str = "cosine"
    cluster_selection_method: str = "stable"
    max_cluster_share: float = 0.2
    min_clusters: int = 0
    max_clusters: int = 0
    levels: int = 1
    min_groups: int = 0
    max_groups: int = 0
    consensus: int = 0
    refits: int = 6
    random_state: int = SEED

    @classmethod
    def for_size(cls, n: int) -> Parameters:
        """The defaults for n training images: sizes grow with n; one thing ends, the consensus."""
        size = _clamp(n // 90, 5, 1000)
        return cls(
            n_neighbors=_clamp(n // 150, 15, 70),
            min_cluster_size=size,
            min_samples=_half(size),
            consensus=_consensus(n),
        )

    @classmethod
    def of_recipe(cls, name: str, n: int) -> Parameters:
        """The parameters of a recipe for n training images.

        Raises:
            FitError: there is no such recipe.
        """
        if name == "article":
            return cls(
                n_neighbors=70,
                min_cluster_size=1000,
                min_samples=1000,
                metric="euclidean",
                cluster_selection_method="leaf",
                max_cluster_share=1.0,
            )
        if name != "steady":
            raise FitError(f"unknown recipe {name[:100]!a}; there are {' and '.join(RECIPES)}")
        return cls.for_size(n)

    def scaled(self, share: float) -> Parameters:
        """HDBSCAN's sizes for a sample of this share of the images: as dense there as here."""
        return dataclasses.replace(
            self,
            min_cluster_size=max(2, round(self.min_cluster_size * share)),
            min_samples=max(1, round(self.min_samples * share)),
        )

    def alone(self, seed: int) -> Parameters:
        """For a fit on a sample, of which only the clusters matter: no consensus, no groups, no number."""
        return dataclasses.replace(
            self, consensus=0, levels=1, min_clusters=0, max_clusters=0, min_groups=0, max_groups=0,
            random_state=seed % 2**32,
        )  # fmt: skip

    def replaced(self, others: Mapping[str, Any]) -> Parameters:
        """These parameters with some replaced.

        Raises:
            FitError: naming a parameter that there is not.
        """
        known = {field.name for field in dataclasses.fields(self)}
        unknown = sorted(set(others) - known)
        if unknown:
            raise FitError(f"unknown parameter {unknown[0]!a}; there are {', '.join(sorted(known))}")
        if isinstance(others.get("min_cluster_size"), numbers.Integral):
            others = {"min_samples": _half(others["min_cluster_size"]), **others}
        return dataclasses.replace(self, **others)

    def with_clusters(self, wanted: Count | None) -> Parameters:
        """With so many clusters; None: as before."""
        if wanted is None:
            return self
        least, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        return dataclasses.replace(self, min_clusters=least, max_clusters=most)

    def with_groups(self, wanted: Count | bool | None) -> Parameters:
        """With groups: so many, as many as there are (True), or none (False); None: as before."""
        if wanted is None:
            return self
        if isinstance(wanted, bool):
            return dataclasses.replace(self, levels=1 + wanted)
        least, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        return dataclasses.replace(self, levels=2, min_groups=least, max_groups=most)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def check(self, n: int) -> None:
        """Refuse what cannot be fitted on n images.

        Raises:
            FitError: naming the parameter, its value and what is possible.
        """
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), _KINDS[str(field.type)]
            if isinstance(value, bool) or not isinstance(value, kind[0]):
                raise FitError(f"{field.name} must be {kind[1]}, is {value!r:.60}")
        limits = {
            "n_neighbors": (2, n - 1),
            "n_components": (2, min(100, n - 2)),
            "n_epochs": (10, 10_000),
            "min_cluster_size": (2, n // 2),
            "min_samples": (1, n // 2),
            "levels": (1, 2),
            "consensus": (0, 100),
            "refits": (1 if self.cluster_selection_method == "stable" else 0, 100),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise FitError(f"{name} must be {least} to {most} for {n} training images, is {value}")
        if not 0 < self.max_cluster_share <= 1:
            raise FitError(f"max_cluster_share must be above 0 and at most 1, is {self.max_cluster_share}")
        self._check_bounds("clusters", self.min_clusters, self.max_clusters)
        self._check_bounds("groups", self.min_groups, self.max_groups)
        if self.levels == 2 and self.cluster_selection_method != "stable":
            raise FitError(
                "groups are chosen by how stable they are: they need cluster_selection_method 'stable', not "
                f"{self.cluster_selection_method!r:.60}"
            )
        choices = {
            "metric": ("cosine", "euclidean"),
            "cluster_selection_method": ("stable", "eom", "leaf"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise FitError(f"{name} must be {' or '.join(allowed)}, is {getattr(self, name)!r}")

    def _check_bounds(self, what: str, least: int, most: int) -> None:
        if (least, most) == (0, 0):
            return
        if not 1 <= least <= most <= MAX_CLUSTERS:
            raise FitError(
                f"the number of {what} must be a number from 1 to {MAX_CLUSTERS} or two, the smaller one "
                f"first, got {least} to {most}"
            )
        if self.cluster_selection_method != "stable":
            raise FitError(
                f"a number of {what} is chosen by how stable they are: it needs cluster_selection_method "
                f"'stable', not {self.cluster_selection_method!r:.60}"
            )


def consensus_size(n: int) -> int:
    """Of the samples that a consensus is made of: four fifths of n images."""
    return n - n // 5


def sample_size(n: int) -> int:
    """Of the samples that say how stable clusters are: four fifths, and at most 40,000, of n images."""
    return min(n - n // 5, SAMPLED)


def choose(
    given: Parameters | Mapping[str, Any] | None,
    recipe: str,
    n: int,
    different: int,
    duplicates: int,
    clusters: Count | None = None,
    groups: Count | bool | None = None,
) -> Parameters:
    """What was given, or a recipe with what was given put in; checked.

    Args:
        given: all parameters, or those that differ from the recipe's.
        recipe: see `Parameters.of_recipe`.
        n: training images.
        different: images without duplicates.
        duplicates: images that were left out.
        clusters: how many there must be.
        groups: above them; see `Parameters.with_groups`.

    Raises:
        FitError: too few images, or parameters that cannot be used with so many.
    """
    if different < MIN_IMAGES or n < MIN_IMAGES // 2:
        raise FitError(
            f"{different} different images ({duplicates} duplicates left out), {n} of them to train on, "
            f"are too few to cluster: give at least {MIN_IMAGES}"
        )
    parameters = (
        given if isinstance(given, Parameters) else Parameters.of_recipe(recipe, n).replaced(given or {})
    )
    parameters = parameters.with_clusters(clusters).with_groups(groups)
    parameters.check(n)
    return parameters


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "str": (str, "a word"),
}


def _consensus(n: int) -> int:
    """Refits by default: fewer agree on too little, more take too long."""
    return _clamp(REFITTED // max(1, n), LEAST_REFITS, MOST_REFITS) if n <= CONSENSUS_IMAGES else 0


def _half(size: int) -> int:
    return max(3, size // 2)


def _clamp(value: int, least: int, most: int) -> int:
    return max(least, min(most, value))
