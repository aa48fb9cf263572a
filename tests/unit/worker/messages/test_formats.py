"""worker.messages.formats: uploads and tags in Avro and Protobuf mean what their JSON means."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.strategies import TAGS
from worker.demo.backends import free_ports
from worker.errors import RegistryError, Rejected, StartError
from worker.messages.formats import Formats, TagFormat
from worker.messages.registry import reach_registry, registry
from worker.messages.tag import Tag
from worker.messages.upload import Upload
from worker.settings.load import load
from worker.settings.settings import Settings
from worker.view.records import read_record
from worker.wiring import formats

pytest.importorskip("confluent_kafka.schema_registry", reason="needs the extra schema-registry")
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

DATA = Path(str(resources.files("worker.messages"))) / "schemas"
WHEN = 1_800_000_000_000
UPLOADS = SerializationContext("uploads", MessageField.VALUE)


@pytest.fixture(scope="module", autouse=True)
def without_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A client reads all of them when it is made, though nothing is asked here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("none")))
        yield


def settings(**env: str) -> Settings:
    return load({"WORKER_SCHEMA_REGISTRY_URL": "mock://", **{f"WORKER_{k}": v for k, v in env.items()}})


def registry_of(wanted: Settings) -> Any:
    return registry(wanted.schema_registry_url, wanted.schema_registry_auth)


@pytest.fixture(scope="module", params=["json", "json-schema", "avro", "protobuf"])
def tags(request: pytest.FixtureRequest) -> TagFormat:
    wanted = settings(TAGS_FORMAT=request.param)
    return formats(wanted, registry_of(wanted)).tags


@given(tag=TAGS)
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_tag_is_read_as_it_was_written(tags: TagFormat, tag: Tag) -> None:
    """Every format gives every field back, to the millisecond and the last bit."""
    assert tags.read(tags.write(tag)) == tag


def test_the_view_has_json_whatever_the_topic_has(tags: TagFormat) -> None:
    """Redis keeps the tag's JSON, so readers of feeds need no registry; what is no tag is told apart."""
    tag = Tag("a", 3, None, 0.5, (), False, "m", "d4833586c6cf", None, WHEN, WHEN, {"big": 2**64 - 1})
    record = read_record(b"a", tags.write(tag), 0, 0, WHEN, tags)
    assert record.value is not None
    assert record.tag == Tag.from_json(record.value)
    assert (record.tag.id, record.tag.cluster) == ("a", 3)
    for wrong in (b"", b"{", b"\0\0\0\0\1", b"\0\0\0\0\1\0\xff\xff", b"\0\0\0\xff\xff\2a", bytes(100)):
        with pytest.raises(ValueError):  # noqa: PT011 - the view tells apart by the type alone
            read_record(b"a", wrong, 0, 0, WHEN, tags)


def test_a_tag_says_what_it_is_written_in(tags: TagFormat) -> None:
    """The content type is that of the format."""
    assert tags.content_type.startswith(b"application/")


def avro(schema: str, **env: str) -> tuple[Formats, Callable[[Any], bytes]]:
    """What the worker reads with, and a service's own serialiser, at the same registry."""
    wanted = settings(UPLOADS_FORMAT="avro", **env)
    client = registry_of(wanted)
    serialise = AvroSerializer(client, schema)
    return formats(wanted, client), lambda event: serialise(event, UPLOADS)


def test_uploads_in_avro() -> None:
    """Our own schema without a map."""
    read, write = avro((DATA / "upload.avsc").read_text())
    when = dt.datetime(2026, 1, 2, 3, 4, 5, 6000, dt.UTC)
    event = {"id": "a", "url": "https://x/", "uploaded_at": when, "attributes": {"n": 3, "b": True, "f": 0.5}}
    expected = Upload("a", "https://x/", int(when.timestamp() * 1000), {"n": 3, "b": True, "f": 0.5})
    assert read.intake(write(event), b"a", WHEN) == expected
    assert read.intake(write({"id": "a", "deleted": True}), b"a", WHEN) == Upload("a", None, WHEN)
    assert read.intake(None, b"a", WHEN) == Upload("a", None, WHEN)


FOREIGN = json.dumps({
    "type": "record", "name": "Photo", "fields": [
        {"name": "nr", "type": "long"},
        {"name": "image", "type": {"type": "record", "name": "Image", "fields": [
            {"name": "path", "type": "string"}, {"name": "raw", "type": ["null", "bytes"]}]}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "GONE"]}},
    ],
})  # fmt: skip


def test_uploads_in_anybodys_avro() -> None:
    """Another schema with a map: numbers as ids, enums compared, a URL put together."""
    read, write = avro(
        FOREIGN, UPLOADS_MAP="id=nr,url='https://cdn.example/{image.path}',deleted=state==GONE"
    )
    event = {"nr": 7, "image": {"path": "a b.jpg"}, "state": "NEW"}
    assert read.intake(write(event), None, WHEN) == Upload("7", "https://cdn.example/a%20b.jpg", WHEN)
    assert read.intake(write({**event, "state": "GONE"}), None, WHEN).deleted


@cache
def foreign() -> tuple[Formats, bytes]:
    """What reads the foreign schema, and how its records begin."""
    read, write = avro(FOREIGN, UPLOADS_MAP="id=nr,url=image.path")
    return read, write({"nr": 7, "image": {"path": "x"}, "state": "NEW"})[:5]


@given(st.binary(max_size=64))
@hypothesis_settings(max_examples=100, deadline=None)
def test_bytes_that_fit_no_schema_are_bad_events(data: bytes) -> None:
    """Whatever comes behind a schema's number, known or not, or without: an upload or `bad-event`."""
    read, number = foreign()
    for value in (data, number + data, b"\0\0\0\1\1" + data, number + b"\xff" * 70_000):
        try:
            read.intake(value, None, WHEN)
        except Rejected as error:
            assert error.code == "bad-event"


@pytest.fixture
def asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks again where nobody answers, as often as ever, without the seconds in between."""
    used = "confluent_kafka.schema_registry._sync.schema_registry_client.full_jitter"
    monkeypatch.setattr(used, lambda *_: 0.0)


class Away:
    """A registry's client that answers with an error, and counts."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def __getattr__(self, name: str) -> Any:
        if name == "config":
            return dict

        def ask(*_: object, **__: object) -> Any:
            self.asked += 1
            raise self.error

        return ask


@pytest.mark.usefixtures("asked_at_once")
def test_a_registry_that_is_away_makes_no_dead_letter() -> None:
    """No answer, or a refusal, is not the event's fault: another error, which ends the process. A number that
    the registry does not know is the event's fault, and asked for once."""
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    wanted = settings(UPLOADS_FORMAT="avro")
    (port,) = free_ports(1)
    nobody = registry_of(settings(SCHEMA_REGISTRY_URL=f"http://127.0.0.1:{port}"))
    for client in (nobody, Away(OSError("gone")), Away(SchemaRegistryError(503, 50001, "down"))):
        with pytest.raises(RegistryError, match="WORKER_SCHEMA_REGISTRY_URL"):
            formats(wanted, client).intake(b"\0\0\0\0\1\2a", None, WHEN)
        with pytest.raises(RegistryError):
            reach_registry(client)
    unknown = Away(SchemaRegistryError(404, 40403, "Schema not found"))
    read = formats(wanted, unknown)
    asked = []
    for _ in range(3):
        with pytest.raises(Rejected, match="not in the registry"):
            read.intake(b"\0\0\0\0\1\2a", None, WHEN)
        asked.append(unknown.asked)
    assert asked == asked[:1] * 3


@pytest.mark.usefixtures("asked_at_once")
def test_check_asks_the_registry_where_a_format_needs_it() -> None:
    """`imgclust-worker check`: silent with JSON, `ok` when it answers, a remedy when nobody listens there."""
    from worker.commands.check import _registry

    assert list(_registry(settings())) == []
    (there,) = _registry(settings(TAGS_FORMAT="avro"))
    assert there.ok
    (port,) = free_ports(1)
    (away,) = _registry(settings(TAGS_FORMAT="avro", SCHEMA_REGISTRY_URL=f"http://127.0.0.1:{port}"))
    assert not away.ok
    assert "does not answer" in away.found
    assert "WORKER_SCHEMA_REGISTRY_URL" in away.found


def test_uploads_in_protobuf(tmp_path: Path) -> None:
    """Our own message, and anybody's by a set of descriptors; a wrong name is refused at the start."""
    from worker.messages.protobuf import message_class

    wanted = settings(UPLOADS_FORMAT="protobuf")
    message = message_class(wanted.uploads_protobuf)
    serialise = ProtobufSerializer(message, registry_of(wanted), {"use.deprecated.format": False})
    event = message(id="a", url="https://x/")
    event.uploaded_at.FromMilliseconds(WHEN)
    event.attributes["n"].number_value = 3
    event.attributes["t"].string_value = "x"
    read = formats(wanted).intake
    assert read(serialise(event, UPLOADS), None, 0) == Upload("a", "https://x/", WHEN, {"n": 3, "t": "x"})
    assert read(serialise(message(id="a", deleted=True), UPLOADS), None, 5) == Upload("a", None, 5)
    for wrong in (b"\0\0\0\0\1\0\xff", b"\0\0\0\0\1\x02\x09\x09a", b"{}", b"\0\0\0\0\1"):
        with pytest.raises(Rejected):
            read(wrong, None, WHEN)

    copy = tmp_path / "theirs.desc"
    shutil.copy(DATA / "events.desc", copy)
    theirs = settings(
        UPLOADS_FORMAT="protobuf", UPLOADS_PROTOBUF=f"{copy}:imgclust.Tag", UPLOADS_MAP="url=model"
    )
    tag = message_class(theirs.uploads_protobuf)(id="b", model="https://y/")
    write = ProtobufSerializer(type(tag), registry_of(theirs), {"use.deprecated.format": False})
    assert formats(theirs).intake(write(tag, UPLOADS), None, WHEN) == Upload("b", "https://y/", WHEN)
    with pytest.raises(StartError, match=r"no message acme\.Photo"):
        formats(settings(UPLOADS_FORMAT="protobuf", UPLOADS_PROTOBUF=f"{copy}:acme.Photo"))


def test_the_descriptors_are_those_of_the_text(tmp_path: Path) -> None:
    """events.desc is what protoc makes of events.proto."""
    protoc = shutil.which("protoc")
    if protoc is None:
        pytest.skip("needs protoc and its include files: protobuf-compiler, libprotobuf-dev")
    made = tmp_path / "made.desc"
    command = [protoc, "--include_imports", f"--descriptor_set_out={made}", "events.proto"]
    subprocess.run(command, cwd=DATA, check=True)
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    ours, theirs = (FileDescriptorSet.FromString(p.read_bytes()) for p in (DATA / "events.desc", made))
    assert [f for f in ours.file if f.name == "events.proto"] == [
        f for f in theirs.file if f.name == "events.proto"
    ]
