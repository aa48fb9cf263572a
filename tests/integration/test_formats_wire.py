"""Somebody's own events on the wire: Debezium's keys, Avro in, Protobuf out, a schema registry between."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path

import pytest

from tests.support.kafka_cluster import Topics, headers_of
from tests.support.origin import Handler, Origin, Request, response
from tests.support.redis_server import RedisServer
from tests.support.schema_registry import SchemaRegistry
from tests.support.waiting import wait_for
from tests.support.worker_process import WorkerProcess, settings_for
from worker.commands.explain import explain
from worker.demo.backends import Kafka
from worker.feed import Feed
from worker.messages.registry import registry
from worker.settings import load
from worker.wiring import formats

pytest.importorskip("confluent_kafka.schema_registry", reason="needs the extra schema-registry")
pytestmark = [pytest.mark.slow, pytest.mark.kafka]

CHANGE = json.dumps({
    "type": "record", "name": "Envelope", "fields": [
        {"name": "op", "type": "string"},
        {"name": "after", "type": ["null", {"type": "record", "name": "Photo", "fields": [
            {"name": "path", "type": "string"}, {"name": "owner", "type": "string"}]}]},
    ],
})  # fmt: skip


def unavailable_once(then: bytes) -> Handler:
    answers = iter([response(b"", "503 Service Unavailable")])

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(next(answers, then))
        await writer.drain()

    return handle


def test_change_events_in_avro_become_tags_in_protobuf(
    tmp_path: Path, apache_kafka: Kafka, model_folder: Path, redis_store: RedisServer, origin: Origin,
    held_out: list[str],
) -> None:  # fmt: skip
    """A row's insertion is tagged, also after a retry, whose record has another key; its deletion
    and the null value behind it take the tag back; Redis has JSON; bytes without a schema are a dead letter.
    `explain` finds an id that is nowhere in the event."""
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    topics = Topics(apache_kafka)
    raw = origin.paths[f"/{held_out[1]}"]
    assert isinstance(raw, bytes)
    origin.paths["/flaky.jpg"] = unavailable_once(raw)
    secret = tmp_path / "registry"
    secret.write_text("user:hunter2\n")
    basic = "Basic " + base64.b64encode(b"user:hunter2").decode()
    with SchemaRegistry(basic).running() as server:
        env = {
            **settings_for(topics, redis_store.url, model_folder, origin.port),
            "WORKER_UPLOADS_FORMAT": "avro",
            "WORKER_UPLOADS_MAP": "id=$key.id|$key,url='" + origin.url("/{after.path}") + "',deleted=op==d,"
            "attributes.owner=after.owner",
            "WORKER_TAGS_FORMAT": "protobuf",
            "WORKER_SCHEMA_REGISTRY_URL": server.url,
            "WORKER_SCHEMA_REGISTRY_AUTH_FILE": str(secret),
        }
        ours = load.load(env)
        client = registry(ours.schema_registry_url, ours.schema_registry_auth)
        serialise, context = AvroSerializer(client, CHANGE), SerializationContext("x", MessageField.VALUE)

        def send(row: int, op: str, path: str | None) -> None:
            after = None if path is None else {"path": path, "owner": "ann"}
            topics.send(b'{"id": %d}' % row, serialise({"op": op, "after": after}, context), row % 4)

        send(5, "c", held_out[0])
        send(6, "u", "flaky.jpg")
        send(7, "c", held_out[2])
        topics.send(b'{"id": 9}', b"{}", 1)
        topics.flush()
        with WorkerProcess(tmp_path, {**env, "WORKER_RETRY_LIMIT": "3"}) as worker:
            worker.ready()
            tags, letters = topics.reader(topics.tags), topics.reader(topics.dlq)
            wait_for("three tags and a letter", lambda: len(tags.read()) == 3 and len(letters.read()) == 1)
            read = formats(ours, client).tags.read
            found = {key: read(message.value() or b"") for key, message in tags.last().items()}
            assert {key: (tag.id, tag.attributes) for key, tag in found.items()} == {
                key: (key, {"owner": "ann"}) for key in ("5", "6", "7")
            }
            assert headers_of(tags.messages[0])["content-type"] == "application/vnd.confluent.protobuf"
            assert headers_of(letters.messages[0])["error-code"] == "bad-event"
            feed = Feed.from_url(redis_store.url)
            wait_for("the view has all", lambda: feed.get(["5", "6", "7"]) == found)

            send(7, "d", None)
            topics.send(b'{"id": 7}', None, 3)
            topics.flush()
            wait_for("the deletions", lambda: len(tags.read()) >= 5 and "7" not in feed.get(["5", "7"]))
            out = io.StringIO()
            assert explain(ours, "6", as_json=True, out=out) == 0
            (event,) = json.loads(out.getvalue())["events"]
            assert event["outcome"] == "tagged"
            assert worker.terminate() == 0
            tags.close()
            letters.close()
