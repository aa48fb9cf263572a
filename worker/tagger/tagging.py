"""A prediction → the tag that is published: the same for a live upload and for one that is tagged again."""

from __future__ import annotations

from collections.abc import Mapping

from worker.messages.upload import Attribute, Candidate, Tag
from worker.tagger.inference import Predicted


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
        model=maker.version,
        taxonomy=maker.taxonomy,
        url=url,
        uploaded_at=uploaded_at,
        tagged_at=tagged_at,
        attributes=attributes,
    )
