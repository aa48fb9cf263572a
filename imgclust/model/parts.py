"""The parts that a model is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from imgclust.errors import EmbeddingsError
from imgclust.predictor import assignment
from imgclust.types import EncoderIdentity

UNSTEADY = 0.6  # stability below which a cluster should not be relied on (Hennig, in R's package fpc)
UNIT = 0.01  # how far from 1 the length of an embedding may be; float16 values leave less than 0.001


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster: its number in the taxonomy, its name (None: no name is good enough), its training images.

    Attributes:
        size: training images in it.
        exemplars: ids of its most typical training images, the most typical first.
        stability: how well samples of the images show it again, 0..1; None: not known. See
            `imgclust.training.selection`.
        group: the number of the group that it is in; None: in none.
        is_class: people defined it, and it is decided before the clusters; see `imgclust.editing.classes`.
    """

    id: int
    name: str | None
    size: int
    exemplars: tuple[str, ...] = ()
    stability: float | None = None
    group: int | None = None
    is_class: bool = False

    @property
    def is_unsteady(self) -> bool:
        """Whether other images of the same kind would make another cluster of it."""
        return self.stability is not None and self.stability < UNSTEADY

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types, without what is not known."""
        known = _known(self)
        if not self.is_class:
            del known["is_class"]
        return known

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cluster:
        """What `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not write that.
        """
        return cls(
            int(data["id"]),
            data["name"],
            int(data["size"]),
            tuple(map(str, data["exemplars"])),
            _share(data.get("stability")),
            None if data.get("group") is None else int(data["group"]),
            bool(data.get("is_class", False)),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """A group of clusters: its number among the groups of the taxonomy, its name, its training images.

    Attributes:
        size: training images in its clusters, as they were fitted.
        stability: as a cluster's.
    """

    id: int
    name: str | None
    size: int
    stability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types, without what is not known."""
        return _known(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Group:
        """What `to_dict` wrote. Raises KeyError, TypeError, ValueError: it did not write that."""
        return cls(int(data["id"]), data["name"], int(data["size"]), _share(data.get("stability")))


def _known(part: Cluster | Group) -> dict[str, Any]:
    optional = ("stability", "group")
    return {
        name: value
        for name, value in dataclasses.asdict(part).items()
        if value is not None or name not in optional
    }


def _share(stability: Any) -> float | None:
    if stability is not None and not 0 <= float(stability) <= 1:
        raise ValueError(f"a cluster's stability must be 0 to 1, is {stability!a:.40}")
    return None if stability is None else float(stability)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelParts:
    """What prediction needs of a fit; nothing that people see of it yet.

    Attributes:
        arrays: those of `imgclust.model.folder.SPECS` and `PREPARED`; clusters are numbered 0..k-1.
        parameters: the tables "umap", "hdbscan" and "novelty", and perhaps "assignment".
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    parameters: Mapping[str, Mapping[str, Any]]

    def selected_by(self, method: str) -> ModelParts:
        """With the name of the method that chose the clusters."""
        hdbscan = {**self.parameters["hdbscan"], "cluster_selection_method": method}
        return dataclasses.replace(self, parameters={**self.parameters, "hdbscan": hdbscan})

    def with_arrays(self, others: Mapping[str, npt.NDArray[Any]]) -> ModelParts:
        """With other arrays beside those that there are."""
        return dataclasses.replace(self, arrays={**self.arrays, **others})

    def with_novelty(self, table: Mapping[str, float]) -> ModelParts:
        """With other thresholds of novelty; see `imgclust.predictor.novelty.calibrate`."""
        return dataclasses.replace(self, parameters={**self.parameters, "novelty": dict(table)})

    def with_assignment(self, table: Mapping[str, float] | None) -> ModelParts:
        """With the score from which on images between clusters are assigned; None: none of them is."""
        if table is None:
            return self
        return dataclasses.replace(self, parameters={**self.parameters, assignment.TABLE: dict(table)})


def check_identity(encoder: object) -> None:
    """Refuse, before hours of work, what no model could record.

    Raises:
        EmbeddingsError: not an `EncoderIdentity`.
    """
    if encoder is not None and not isinstance(encoder, EncoderIdentity):
        raise EmbeddingsError(
            f"encoder must be an EncoderIdentity, got {type(encoder).__name__} {encoder!r:.80}: give "
            "load_encoder(…).identity, or read_embeddings(…) instead of an array, which brings its own"
        )
