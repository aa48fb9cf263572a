"""Uploads and tags in Avro."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from worker.errors import RegistryError
from worker.messages.formats import AVRO, PLAIN_FIELDS, TagFormat, reader
from worker.messages.mapping import Decode
from worker.messages.registry import UnknownSchemas, asked, framed, mapping, parsed, serialization_context
from worker.messages.tag import Tag
from worker.messages.text import bad_event
from worker.messages.upload import SCHEMA, Attribute

_INT64 = range(-(2**63), 2**63)


def avro_decoder(client: Any, topic: str) -> Decode:
    """Avro in any schema that the registry knows → a mapping."""
    from confluent_kafka.schema_registry.avro import AvroDeserializer

    deserialise, context, unknown = AvroDeserializer(client), serialization_context(topic), UnknownSchemas()

    def decode(value: bytes) -> Mapping[str, Any]:
        number = framed(value)
        if number in unknown:
            raise bad_event("the event's schema is not in the registry")
        try:
            event = asked(lambda: parsed(lambda: deserialise(value, context)))
        except RegistryError as error:
            if error.status != 404:
                raise
            unknown.add(number)
            raise bad_event("the event's schema is not in the registry") from None
        return mapping(event)

    return decode


def avro_tags(client: Any, topic: str) -> TagFormat:
    from confluent_kafka.schema_registry.avro import AvroSerializer

    schema = resources.files("worker.messages").joinpath("schemas", "tag.avsc").read_text()
    serialise, context = AvroSerializer(client, schema, _avro_fields), serialization_context(topic)
    decode = avro_decoder(client, topic)

    def write(tag: Tag) -> bytes:
        written: bytes = asked(lambda: serialise(tag, context))
        return written

    return TagFormat(AVRO, write, reader(decode))


def _avro_fields(tag: Tag, _: object) -> dict[str, Any]:
    fields = {name: getattr(tag, name) for name in PLAIN_FIELDS}
    return {
        **fields,
        "schema": SCHEMA,
        "candidates": [{"cluster": c.cluster, "name": c.name, "score": c.score} for c in tag.candidates],
        "attributes": {name: _avro_attribute(value) for name, value in tag.attributes.items()},
    }


def _avro_attribute(value: Attribute) -> Attribute:
    return float(value) if type(value) is int and value not in _INT64 else value
