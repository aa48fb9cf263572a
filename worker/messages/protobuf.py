"""Uploads and tags in Protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from worker.errors import StartError
from worker.messages.formats import MOMENTS, PLAIN_FIELDS, PROTOBUF, TagFormat, reader
from worker.messages.mapping import Decode
from worker.messages.registry import asked, framed, mapping, parsed, serialization_context
from worker.messages.tag import Tag
from worker.messages.text import printable
from worker.messages.upload import SCHEMA


def protobuf_decoder(message: Any, topic: str) -> Decode:
    """Protobuf messages of one kind → a mapping; the registry is not asked."""
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
    from google.protobuf import json_format

    deserialise, context = (
        ProtobufDeserializer(message, {"use.deprecated.format": False}),
        serialization_context(topic),
    )

    def decode(value: bytes) -> Mapping[str, Any]:
        framed(value)
        event = parsed(
            lambda: json_format.MessageToDict(deserialise(value, context), preserving_proto_field_name=True)
        )
        return mapping(event)

    return decode


def message_class(chosen: tuple[Path, str] | None) -> Any:
    """The class of the Protobuf messages in the uploads topic.

    Args:
        chosen: a file of descriptors and the message's name; our own message when None.

    Raises:
        StartError: the file is no set of descriptors, or the message is not in it.
    """
    if chosen is None:
        return _own_message("Upload")
    path, name = chosen
    return _message(path.read_bytes(), name, str(path))


def _own_message(name: str) -> Any:
    data = resources.files("worker.messages").joinpath("schemas", "events.desc").read_bytes()
    return _message(data, f"imgclust.{name}", "events.desc")


def _message(data: bytes, name: str, source: str) -> Any:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise StartError(
            f"Protobuf needs the extra: pip install 'imgclust[schema-registry]' ({error})"
        ) from None
    pool = descriptor_pool.DescriptorPool()
    try:
        for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
            pool.Add(file)
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    except (DecodeError, TypeError, KeyError) as error:
        raise StartError(
            f"no message {name} in {source!r} ({printable(str(error))}); make it with "
            "protoc --include_imports --descriptor_set_out=FILE.desc FILE.proto, and name the message with "
            "its package"
        ) from None


def protobuf_tags(client: Any, topic: str) -> TagFormat:
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
    from google.protobuf import json_format

    message, context = _own_message("Tag"), serialization_context(topic)
    options = {"use.deprecated.format": False}
    serialise, deserialise = (
        ProtobufSerializer(message, client, options),
        ProtobufDeserializer(message, options),
    )

    def write(tag: Tag) -> bytes:
        fields = {name: getattr(tag, name) for name in PLAIN_FIELDS if name not in MOMENTS}
        candidates = [{"cluster": c.cluster, "name": c.name, "score": c.score} for c in tag.candidates]
        filled = message(schema=SCHEMA, candidates=candidates, **fields)
        for name in MOMENTS:
            getattr(filled, name).FromMilliseconds(getattr(tag, name))
        for name, value in tag.attributes.items():
            kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
            setattr(filled.attributes[name], f"{kind}_value", value)
        written: bytes = asked(lambda: serialise(filled, context))
        return written

    def decode(value: bytes) -> Mapping[str, Any]:
        framed(value)
        read = parsed(lambda: deserialise(value, context))
        found: Mapping[str, Any] = json_format.MessageToDict(
            read, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return found

    return TagFormat(PROTOBUF, write, reader(decode))
