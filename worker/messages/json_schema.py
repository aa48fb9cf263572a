"""Tags in JSON with a schema registry's framing, under their JSON Schema."""

from __future__ import annotations

from importlib import resources
from typing import Any

import orjson

from worker.errors import Rejected
from worker.messages.formats import JSON_SCHEMA, TagFormat
from worker.messages.registry import asked, framed, serialization_context
from worker.messages.tag import Tag

FRAME = 5  # bytes: a zero, and the number of the schema


def json_schema_tags(client: Any, topic: str) -> TagFormat:
    """The serialiser registers the schema and frames what it writes; a reader needs no registry for JSON."""
    from confluent_kafka.schema_registry.json_schema import JSONSerializer

    schema = resources.files("worker.messages").joinpath("schemas", "tag.schema.json").read_text()
    settings = {"validate": False}  # every tag fits, as the tests of the schema show
    serialise, context = JSONSerializer(schema, client, _fields, settings), serialization_context(topic)

    def write(tag: Tag) -> bytes:
        written: bytes = asked(lambda: serialise(tag, context))
        return written

    def read(value: bytes) -> Tag:
        try:
            framed(value)
        except Rejected as error:
            raise ValueError(f"not a tag: {error}") from None
        return Tag.from_json(value[FRAME:])

    return TagFormat(JSON_SCHEMA, write, read)


def _fields(tag: Tag, _: object) -> Any:
    return orjson.loads(tag.to_json())
