"""Records of the tags topic, checked: what the view may write."""

from __future__ import annotations

import dataclasses

from worker.messages.formats import JSON_TAGS, TagFormat
from worker.messages.tag import TAXONOMY, Tag
from worker.messages.text import printable
from worker.messages.upload import MAX_ID_CHARS

FUTURE_MS = 5 * 60_000  # an uploader's clock may be so far ahead; what is beyond counts as this


@dataclasses.dataclass(frozen=True, slots=True)
class TagRecord:
    """One record of the tags topic, checked.

    Attributes:
        value: the tag's JSON, as it was read where the topic has JSON; None for a deleted upload, and so are
            the two that follow.
        at: ms since the epoch; `uploaded_at`, at most five minutes past `timestamp` (the record's own).
    """

    id: str
    partition: int
    offset: int
    timestamp: int
    value: bytes | None = None
    tag: Tag | None = None
    at: int = 0


def read_record(
    key: bytes | None,
    value: bytes | None,
    partition: int,
    offset: int,
    timestamp: int,
    tags: TagFormat = JSON_TAGS,
) -> TagRecord:
    """Check a record of the tags topic.

    Args:
        tags: what the topic's records are written in.

    Raises:
        ValueError: it is neither a tag nor the deletion of one.
    """
    if not key:
        raise ValueError("the record has no key")
    try:
        upload_id = key.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the key is not UTF-8: {printable(key)}") from None
    if len(upload_id) > MAX_ID_CHARS:
        raise ValueError(f"the key has {len(upload_id)} characters, at most {MAX_ID_CHARS} are an id")
    if value is None:
        return TagRecord(upload_id, partition, offset, timestamp)
    tag = tags.read(value)
    if tags is not JSON_TAGS:
        value = tag.to_json()
    if tag.id != upload_id:
        raise ValueError(f"the key {printable(upload_id)} is not the tag's id {printable(tag.id)}")
    if type(tag.cluster) is not int or not -1 <= tag.cluster < 2**31:
        raise ValueError(f"the cluster is not a number from -1 on: {printable(tag.cluster)}")
    if tag.group is not None and not (type(tag.group) is int and 0 <= tag.group < 2**31):
        raise ValueError(f"the group is not a number from 0 on: {printable(tag.group)}")
    if not isinstance(tag.taxonomy, str) or not TAXONOMY.fullmatch(tag.taxonomy):
        raise ValueError(f"the taxonomy has not the form {TAXONOMY.pattern}: {printable(tag.taxonomy)}")
    if not isinstance(tag.model, str) or not (tag.name is None or isinstance(tag.name, str)):
        raise ValueError(f"model and name must be strings: {printable([tag.model, tag.name])}")
    at = min(tag.uploaded_at, timestamp + FUTURE_MS)
    return TagRecord(upload_id, partition, offset, timestamp, value, tag, at)
