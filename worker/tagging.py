"""A prediction → the tag that is published: the same for a live upload and for one that is tagged again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from worker.inference import Predicted
from worker.messages import Attribute, Candidate, Tag


class Model(Protocol):
    """What a tag says of the model that made it."""

    @property
    def version(self) -> str: ...
    @property
    def taxonomy(self) -> str: ...


def tag_of(
    predicted: Predicted,
    model: Model,
    names: Mapping[int, str | None],
    *,
    id: str,
    url: str | None,
    uploaded_at: int,
    tagged_at: int,
    attributes: Mapping[str, Attribute],
) -> Tag:
    """Times in milliseconds since the epoch; `names`: cluster → name, of the model."""
    return Tag(
        id=id,
        cluster=predicted.cluster,
        name=names.get(predicted.cluster),
        probability=predicted.probability,
        candidates=tuple(Candidate(c, names.get(c), s) for c, s in predicted.candidates),
        novel=predicted.novel,
        model=model.version,
        taxonomy=model.taxonomy,
        url=url,
        uploaded_at=uploaded_at,
        tagged_at=tagged_at,
        attributes=attributes,
    )
