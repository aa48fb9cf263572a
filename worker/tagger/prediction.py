"""The values of inference: what is to be predicted, and what came out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from imgclust.types import MAX_CANDIDATES, Floats, Prediction
from worker.messages.tag import Candidate, Tag
from worker.messages.upload import Attribute

if TYPE_CHECKING:
    from imgclust.model.parts import Cluster


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    """A decoded picture: its token and the slot of shared memory that it lies in."""

    token: int
    slot: int


class Model(Protocol):
    """A frozen model: `imgclust.model.model.ClusterModel`, or what stands for one."""

    @property
    def version(self) -> str: ...
    @property
    def taxonomy(self) -> str: ...
    @property
    def clusters(self) -> Sequence[Cluster]: ...
    def predict(self, embeddings: Floats) -> Prediction: ...


@dataclasses.dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that made a prediction, as far as a tag speaks of it.

    Attributes:
        names: of the clusters.
        groups: of the clusters that are in one.
        classes: the clusters that are classes, which people defined.
    """

    version: str
    taxonomy: str
    names: Mapping[int, str | None]
    groups: Mapping[int, int] = dataclasses.field(default_factory=dict)
    classes: frozenset[int] = frozenset()

    @classmethod
    def of(cls, model: Model) -> ModelInfo:
        groups = {c.id: c.group for c in model.clusters if c.group is not None}
        classes = frozenset(c.id for c in model.clusters if c.is_class)
        return cls(model.version, model.taxonomy, {c.id: c.name for c in model.clusters}, groups, classes)


@dataclasses.dataclass(frozen=True, slots=True)
class Predicted:
    """One image's prediction; `candidates` are (cluster, score), best first."""

    maker: ModelInfo
    token: int
    cluster: int
    probability: float
    candidates: tuple[tuple[int, float], ...]
    novel: bool
    embedding: bytes | None = None  # float16 numbers, where embeddings are kept
    assigned: bool = False  # put into its cluster from between clusters


@dataclasses.dataclass(frozen=True, slots=True)
class Unencodable:
    """An image that the encoder or the predictor fails on, alone, while others pass."""

    token: int
    message: str


InferenceOutcome = Predicted | Unencodable


def rows(
    maker: ModelInfo, tokens: Sequence[int], prediction: Prediction, embeddings: Sequence[bytes] | None = None
) -> list[Predicted]:
    """A prediction's arrays as one value per image, with the embeddings that are to be kept."""
    clusters, scores = prediction.candidates.tolist(), prediction.scores.tolist()
    kept: Sequence[bytes | None] = [None] * len(tokens) if embeddings is None else embeddings
    probabilities = np.clip(prediction.probabilities, 0.0, 1.0).tolist()
    return [
        Predicted(
            maker,
            token,
            label,
            round(probability, 6),
            tuple((c, round(s, 6)) for c, s in zip(cs, ss, strict=True) if c >= 0)[:MAX_CANDIDATES],
            novel,
            embedding,
            assigned,
        )
        for token, label, probability, cs, ss, novel, embedding, assigned in zip(
            tokens,
            prediction.labels.tolist(),
            probabilities,
            clusters,
            scores,
            prediction.novel.tolist(),
            kept,
            prediction.assigned.tolist(),
            strict=True,
        )
    ]


def tag_of(
    predicted: Predicted,
    *,
    id: str,
    url: str | None,
    uploaded_at: int,
    tagged_at: int,
    attributes: Mapping[str, Attribute],
) -> Tag:
    """Times in milliseconds since the epoch."""
    maker = predicted.maker
    return Tag(
        id=id,
        cluster=predicted.cluster,
        name=maker.names.get(predicted.cluster),
        probability=predicted.probability,
        candidates=tuple(Candidate(c, maker.names.get(c), s) for c, s in predicted.candidates),
        novel=predicted.novel,
        assigned=predicted.assigned,
        model=maker.version,
        taxonomy=maker.taxonomy,
        url=url,
        uploaded_at=uploaded_at,
        tagged_at=tagged_at,
        attributes=attributes,
        group=maker.groups.get(predicted.cluster),
        from_class=predicted.cluster in maker.classes,
    )
