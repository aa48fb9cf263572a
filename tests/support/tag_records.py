"""Tag records as the view reads them, and their way into a Redis."""

from __future__ import annotations

from worker.messages.tag import Candidate, Tag
from worker.view.records import TagRecord, read_record
from worker.view.store import TagsView


def record(
    upload_id: str,
    offset: int,
    at: int,
    cluster: int | None = 1,
    *,
    taxonomy: str = "t1",
    partition: int = 0,
    uploaded_at: int | None = None,
    name: str | None = "cats",
    model: str = "m1",
    group: int | None = None,
) -> TagRecord:
    """A record as it would be read; `cluster` None for a deletion."""
    value = None
    if cluster is not None:
        when = at if uploaded_at is None else uploaded_at
        candidates = (Candidate(cluster, name, 0.5),)
        attributes = {"n": offset}
        value = Tag(
            upload_id, cluster, name, 0.5, candidates, False, model, taxonomy, None, when, at, attributes,
            group=group,
        ).to_json()  # fmt: skip
    return read_record(upload_id.encode(), value, partition, offset, at)


def apply(view: TagsView, *records: TagRecord) -> tuple[int, int, int]:
    done = view.apply(records, {})
    return done.written, done.stale, done.malformed
