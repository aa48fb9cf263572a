"""What uploads and tags look like on the wire: JSON, or Avro and Protobuf by way of a schema registry.

Serialisers are confluent-kafka's, so that anybody's clients read and write the same. They are loaded where a
setting wants them (the extra `schema-registry`); JSON without a map goes through `messages` as it always did.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import time
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import orjson

from worker.errors import RegistryError, Rejected, StartError
from worker.messages.mapping import Decode, Intake, MappedIntake, plain_json
from worker.messages.upload import MAX_EVENT_BYTES, SCHEMA, Attribute, Tag, bad_event, printable
from worker.settings.load import Settings

REGISTRY_TIMEOUT = (
    5.0  # seconds for one answer; the loop waits for it, and may for 30 s before it counts as dead
)
REGISTRY_RETRIES = 2
UNKNOWN_SECONDS, UNKNOWN_SCHEMAS = (
    60.0,
    1000,
)  # numbers of schemas that are not asked for again, how long and many
_INT64 = range(-(2**63), 2**63)


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


JSON, AVRO, PROTOBUF = (
    b"application/json", b"application/vnd.confluent.avro", b"application/vnd.confluent.protobuf",
)  # fmt: skip
_TYPES = {"json": JSON, "avro": AVRO, "protobuf": PROTOBUF}
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


def formats(settings: Settings, client: Any = None) -> Formats:
    """What the settings say.

    Args:
        client: of the schema registry; made from the settings when left out.

    Raises:
        StartError: what a format needs is not installed, or not there.
    """
    fields = settings.uploads_map or {}
    reading, writing, tags_topic = settings.uploads_format, settings.tags_format, settings.tags_topic
    if client is None and needs_registry(settings):
        client = registry(settings)
    intake: Intake = MappedIntake(fields) if fields else plain_json
    if reading == "avro":
        intake = MappedIntake(fields, avro_decoder(client, settings.uploads_topic))
    elif reading == "protobuf":
        intake = MappedIntake(fields, protobuf_decoder(message_class(settings), settings.uploads_topic))
    tags = JSON_TAGS
    if writing == "avro":
        tags = avro_tags(client, tags_topic)
    elif writing == "protobuf":
        tags = protobuf_tags(client, tags_topic)
    return Formats(intake, _TYPES[reading], tags)


def needs_registry(settings: Settings) -> bool:
    """Uploads in Protobuf need none: the messages' descriptors are at hand."""
    return settings.uploads_format == "avro" or settings.tags_format != "json"


def tag_format(settings: Settings) -> TagFormat:
    """How tags are read and written, for who has nothing to do with uploads.

    Raises:
        StartError: see `formats`.
    """
    return formats(dataclasses.replace(settings, uploads_format="json", uploads_map=None)).tags


def registry(settings: Settings) -> Any:
    """A client of the schema registry.

    Raises:
        StartError: the extra is not installed.
    """
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise StartError(
            f"a schema registry needs the extra: pip install 'imgclust[schema-registry]' ({error})"
        ) from None
    config: dict[str, Any] = {
        "url": settings.schema_registry_url,
        "timeout": REGISTRY_TIMEOUT,
        "max.retries": REGISTRY_RETRIES,
    }
    if settings.schema_registry_auth:
        config["basic.auth.user.info"] = settings.schema_registry_auth
    return SchemaRegistryClient.new_client(config)


def reach_registry(client: Any) -> None:
    """Ask the registry something.

    Raises:
        RegistryError: it does not answer, or not to us.
    """
    _asked(lambda: client.get_subjects())


def _asked(ask: Callable[[], Any]) -> Any:
    """What a call returns that may ask the registry; what goes wrong with the registry, as our own error."""
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    try:
        return ask()
    except SchemaRegistryError as error:
        raise RegistryError(
            f"the schema registry refuses ({error.http_status_code}): {printable(error.error_message)}; "
            "check WORKER_SCHEMA_REGISTRY_URL and WORKER_SCHEMA_REGISTRY_AUTH, and the subject's "
            "compatibility",
            status=error.http_status_code,
        ) from None
    except _transport_errors() as error:
        raise RegistryError(
            f"the schema registry does not answer ({type(error).__name__}: {printable(str(error))}); "
            "check WORKER_SCHEMA_REGISTRY_URL"
        ) from None


@functools.cache
def _transport_errors() -> tuple[type[Exception], ...]:
    """What the registry's client lets through when there is no answer: its HTTP library's, which differs by
    version. One that is missing here would make dead letters of good events."""
    found: list[type[Exception]] = [OSError]
    for name in ("httpx2", "httpx"):
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(name).HTTPError)
    return tuple(found)


def _context(topic: str) -> Any:
    from confluent_kafka.serialization import MessageField, SerializationContext

    return SerializationContext(topic, MessageField.VALUE)


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────


class _Unknown:
    """Numbers of schemas that the registry does not have: whoever writes events chooses them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def __contains__(self, number: bytes) -> bool:
        return self._until.get(number, 0.0) > self._clock()

    def add(self, number: bytes) -> None:
        if len(self._until) >= UNKNOWN_SCHEMAS:
            self._until.clear()
        self._until[number] = self._clock() + UNKNOWN_SECONDS


def avro_decoder(client: Any, topic: str) -> Decode:
    """Avro in any schema that the registry knows → a mapping."""
    from confluent_kafka.schema_registry.avro import AvroDeserializer

    deserialise, context, unknown = AvroDeserializer(client), _context(topic), _Unknown()

    def decode(value: bytes) -> Mapping[str, Any]:
        number = _framed(value)
        if number in unknown:
            raise bad_event("the event's schema is not in the registry")
        try:
            event = _asked(lambda: _parsed(lambda: deserialise(value, context)))
        except RegistryError as error:
            if error.status != 404:
                raise
            unknown.add(number)
            raise bad_event("the event's schema is not in the registry") from None
        return _mapping(event)

    return decode


def protobuf_decoder(message: Any, topic: str) -> Decode:
    """Protobuf messages of one kind → a mapping; the registry is not asked."""
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
    from google.protobuf import json_format

    deserialise, context = ProtobufDeserializer(message, {"use.deprecated.format": False}), _context(topic)

    def decode(value: bytes) -> Mapping[str, Any]:
        _framed(value)
        event = _parsed(
            lambda: json_format.MessageToDict(deserialise(value, context), preserving_proto_field_name=True)
        )
        return _mapping(event)

    return decode


def _framed(value: bytes) -> bytes:
    """The number of the schema in front of the data."""
    if len(value) > MAX_EVENT_BYTES:
        raise bad_event(f"the event has {len(value)} bytes, at most {MAX_EVENT_BYTES} are read")
    if len(value) < 5 or value[0] != 0:
        raise bad_event(f"the event does not begin with a schema's number: {printable(value[:8])}")
    return value[1:5]


def _parsed(read: Callable[[], Any]) -> Any:
    """What a foreign parser makes of a stranger's bytes: errors of any kind mean that they are not what they
    should be; those of the registry pass."""
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    passed: tuple[type[Exception], ...] = (SchemaRegistryError, *_transport_errors())
    try:
        return read()
    except passed:
        raise
    except Exception as error:
        raise bad_event(
            f"the event does not fit its schema: {printable(f'{type(error).__name__}: {error}')}"
        ) from None


def _mapping(event: Any) -> Mapping[str, Any]:
    if not isinstance(event, Mapping):
        raise bad_event(f"the event must be a record, got {printable(event)}")
    return event


def message_class(settings: Settings) -> Any:
    """The class of the Protobuf messages in the uploads topic.

    Raises:
        StartError: the file is no set of descriptors, or the message is not in it.
    """
    if settings.uploads_protobuf is None:
        return _own_message("Upload")
    path, name = settings.uploads_protobuf
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


# ── tags ─────────────────────────────────────────────────────────────────────────────────────────────────


def avro_tags(client: Any, topic: str) -> TagFormat:
    from confluent_kafka.schema_registry.avro import AvroSerializer

    schema = resources.files("worker.messages").joinpath("schemas", "tag.avsc").read_text()
    serialise, context = AvroSerializer(client, schema, _avro_fields), _context(topic)
    decode = avro_decoder(client, topic)

    def write(tag: Tag) -> bytes:
        written: bytes = _asked(lambda: serialise(tag, context))
        return written

    return TagFormat(AVRO, write, _reader(decode))


def _avro_fields(tag: Tag, _: object) -> dict[str, Any]:
    fields = {name: getattr(tag, name) for name in _PLAIN_FIELDS}
    return {
        **fields,
        "schema": SCHEMA,
        "candidates": [{"cluster": c.cluster, "name": c.name, "score": c.score} for c in tag.candidates],
        "attributes": {name: _avro_attribute(value) for name, value in tag.attributes.items()},
    }


_MOMENTS = ("uploaded_at", "tagged_at")
_PLAIN_FIELDS = ("id", "cluster", "name", "probability", "novel", "model", "taxonomy", "url", *_MOMENTS)


def _avro_attribute(value: Attribute) -> Attribute:
    return float(value) if type(value) is int and value not in _INT64 else value


def protobuf_tags(client: Any, topic: str) -> TagFormat:
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
    from google.protobuf import json_format

    message, context = _own_message("Tag"), _context(topic)
    options = {"use.deprecated.format": False}
    serialise, deserialise = (
        ProtobufSerializer(message, client, options),
        ProtobufDeserializer(message, options),
    )

    def write(tag: Tag) -> bytes:
        fields = {name: getattr(tag, name) for name in _PLAIN_FIELDS if name not in _MOMENTS}
        candidates = [{"cluster": c.cluster, "name": c.name, "score": c.score} for c in tag.candidates]
        filled = message(schema=SCHEMA, candidates=candidates, **fields)
        for name in _MOMENTS:
            getattr(filled, name).FromMilliseconds(getattr(tag, name))
        for name, value in tag.attributes.items():
            kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
            setattr(filled.attributes[name], f"{kind}_value", value)
        written: bytes = _asked(lambda: serialise(filled, context))
        return written

    def decode(value: bytes) -> Mapping[str, Any]:
        _framed(value)
        read = _parsed(lambda: deserialise(value, context))
        found: Mapping[str, Any] = json_format.MessageToDict(
            read, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return found

    return TagFormat(PROTOBUF, write, _reader(decode))


def _reader(decode: Decode) -> Callable[[bytes], Tag]:
    def read(value: bytes) -> Tag:
        try:
            return Tag.from_json(orjson.dumps(decode(value)))  # times become RFC 3339
        except (Rejected, orjson.JSONEncodeError) as error:
            raise ValueError(f"not a tag: {error}") from None

    return read
