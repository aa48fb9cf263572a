"""What uploads and tags look like on the wire: JSON, or Avro and Protobuf by way of a schema registry.

Serialisers are confluent-kafka's, so that anybody's clients read and write the same. They are loaded where a
setting wants them (the extra `schema-registry`); JSON without a map goes through `messages` as it always did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import orjson

from worker.errors import Rejected
from worker.messages.mapping import Decode, Intake, plain_json
from worker.messages.tag import Tag


@dataclasses.dataclass(frozen=True, slots=True)
class TagFormat:
    """How tags are written and read.

    Attributes:
        content_type: of the record's header.
        write: raises RegistryError when the registry does not answer.
        read: raises ValueError for what is not a tag, RegistryError likewise.
    """

    content_type: bytes
    write: Callable[[Tag], bytes]
    read: Callable[[bytes], Tag]


JSON, JSON_SCHEMA, AVRO, PROTOBUF = (
    b"application/json", b"application/vnd.confluent.json",
    b"application/vnd.confluent.avro", b"application/vnd.confluent.protobuf",
)  # fmt: skip
CONTENT_TYPES = {"json": JSON, "json-schema": JSON_SCHEMA, "avro": AVRO, "protobuf": PROTOBUF}
JSON_TAGS = TagFormat(JSON, Tag.to_json, Tag.from_json)


@dataclasses.dataclass(frozen=True, slots=True)
class Formats:
    """How uploads are read, and tags written and read; JSON by default.

    Attributes:
        uploads_type: the content type of a record of uploads, for its copy in the retry topic.
    """

    intake: Intake = plain_json
    uploads_type: bytes = JSON
    tags: TagFormat = JSON_TAGS


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────


# ── tags ─────────────────────────────────────────────────────────────────────────────────────────────────


MOMENTS = ("uploaded_at", "tagged_at")
PLAIN_FIELDS = (
    "id", "cluster", "name", "group", "probability", "novel", "assigned", "from_class", "model", "taxonomy",
    "url",
    *MOMENTS,
)  # fmt: skip


def reader(decode: Decode) -> Callable[[bytes], Tag]:
    def read(value: bytes) -> Tag:
        try:
            return Tag.from_json(orjson.dumps(decode(value)))  # times become RFC 3339
        except (Rejected, orjson.JSONEncodeError) as error:
            raise ValueError(f"not a tag: {error}") from None

    return read
