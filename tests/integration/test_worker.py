"""The worker as a process, on the mock cluster and on Apache Kafka, with a real Redis and a real model."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from imgclust.model.model import ClusterModel
from tests.support.kafka_cluster import PARTITIONS, Reader, Topics, headers_of
from tests.support.origin import Handler, Origin, Request, response, silence, then_close
from tests.support.paths import CLIPART
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import WorkerProcess, settings_for
from worker.demo.backends import MockKafka
from worker.feed import Feed
from worker.messages.embedding import read_embedding
from worker.messages.tag import Tag
from worker.tagger.prediction import ModelInfo, rows

pytestmark = pytest.mark.slow

Start = Callable[..., WorkerProcess]
# Of a member that was killed; the mock cluster makes the next member wait as long for one that has left, too.
SHORT_SESSION = {"WORKER_KAFKA_SESSION_TIMEOUT_MS": "6000"}


def upload(upload_id: str, url: str, **more: object) -> bytes:
    return orjson.dumps({"id": upload_id, "url": url, **more})


@pytest.fixture
def start(tmp_path: Path, topics: Topics, model_folder: Path, redis_store: RedisServer) -> Iterator[Start]:
    """Starts workers that belong together; ends them with the test."""
    started: list[WorkerProcess] = []

    def one(*arguments: str, **env: str) -> WorkerProcess:
        settings = settings_for(topics, redis_store.url, model_folder, env.pop("PORTS", "80"))
        if isinstance(topics.kafka, MockKafka) and env.get("WORKER_GROUP_PROTOCOL") != "consumer":
            settings |= SHORT_SESSION
        settings |= env
        worker = WorkerProcess(tmp_path, settings, *arguments).start()
        started.append(worker)
        return worker

    yield one
    for worker in started:
        worker.__exit__()


def picture(width: int, height: int, form: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), "firebrick").save(buffer, form)
    return buffer.getvalue()


BROKEN = {
    # path → (raw response, the dead letter's code)
    "/missing.jpg": (response(b"", "404 Not Found"), "not-found"),
    "/down.jpg": (response(b"", "500 Internal Server Error"), "fetch-failed"),
    "/cut.jpg": (then_close(response(picture(64, 64, "JPEG")[:300], length=9000)), "fetch-failed"),
    "/half.jpg": (response(picture(400, 400, "JPEG")[:900]), "decode-failed"),
    "/text.jpg": (response(b"this is no picture"), "unsupported-format"),
    "/wide.png": (response(picture(30_000, 2_000, mode="1")), "too-many-pixels"),
    "/heavy.jpg": (response(b"\xff\xd8\xff" + bytes(3_000_000)), "too-large"),
    "/silent.jpg": (silence, "fetch-timeout"),
}


def held(origin: Origin, file: str) -> tuple[Handler, Callable[[], None]]:
    """An answer that comes once it is released, and what releases it."""
    released, body = threading.Event(), (CLIPART / file).read_bytes()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        await asyncio.to_thread(released.wait)
        writer.write(response(body))
        await writer.drain()

    return answer, released.set


def test_every_upload_ends_as_it_should(
    topics: Topics, start: Start, origin: Origin, held_out: list[str], redis_store: RedisServer,
    model_folder: Path,
) -> None:  # fmt: skip
    """Good uploads are tagged, each kind of bad one is a dead letter with its own code, an overtaken one is
    superseded, a deleted one is gone; topics, metrics, Redis and the committed offsets all say the same. The
    embeddings topic has an embedding for each tag, from which the model says the same again, bit for bit."""
    origin.paths.update({path: answer for path, (answer, _) in BROKEN.items()})
    good = {f"good-{i}": origin.url(f"/{file}") for i, file in enumerate(held_out)}
    for i, (upload_id, url) in enumerate(good.items()):
        topics.send(upload_id.encode(), upload(upload_id, url, attributes={"n": i}), i % PARTITIONS)
    bad = {f"bad{path}": (origin.url(path), code) for path, (_, code) in BROKEN.items()}
    bad["bad-metadata"] = ("http://169.254.169.254/latest/meta-data/", "url-forbidden")
    bad["bad-scheme"] = ("file:///etc/passwd", "url-forbidden")
    for upload_id, (url, _) in bad.items():
        topics.send(upload_id.encode(), upload(upload_id, url), 1)
    topics.send(b"who", b"{not json", 2)
    topics.send(None, b'{"id":7,"url":"http://x/"}', 3)
    url = next(iter(good.values()))
    topics.send(b"twice", upload("twice", origin.url("/silent.jpg")), 0)
    topics.send(b"twice", upload("twice", url), 0)
    topics.send(b"gone", upload("gone", url), 0)
    topics.send(b"gone", None, 0)
    topics.flush()
    total = len(good) + len(bad) + 6

    worker = start(
        PORTS=str(origin.port), WORKER_FETCH_MAX_BYTES="2000000", WORKER_FETCH_TIMEOUT="2",
        WORKER_RETRY_LIMIT="4",  # so that a busy machine does not make a good upload a dead letter
        WORKER_EMBEDDINGS_TOPIC=topics.embeddings,
    ).ready()  # fmt: skip
    tags, letters = topics.reader(topics.tags), topics.reader(topics.dlq)
    wait_for(
        "all dead letters and tags are there",
        lambda: (
            len(letters.read()) >= len(bad) + 2
            and {*good, "twice", "gone"} <= set(tags.read() and tags.last())
        ),
    )

    for upload_id, message in tags.last().items():
        if upload_id == "gone":
            assert message.value() is None
            continue
        tag = Tag.from_json(message.value() or b"")
        assert tag.id == upload_id
        assert tag.url == ({**good, "twice": url})[upload_id]
        assert headers_of(message)["source-partition"] == str(message.partition())
        assert headers_of(message)["source-topic"] == topics.uploads
        assert 0 <= tag.probability <= 1
        assert (tag.cluster == -1) == (tag.name is None and tag.probability == 0 and tag.cluster < 0)
    assert {Tag.from_json(m.value() or b"").cluster for k, m in tags.last().items() if k != "gone"} - {-1}

    for message in letters.messages:
        headers, key = headers_of(message), (message.key() or b"").decode()
        if key in bad:
            assert headers["error-code"] == bad[key][1], (key, headers)
            assert message.value() == upload(key, bad[key][0])
        else:
            assert headers["error-code"] == "bad-event"
            assert message.value() in (b"{not json", b'{"id":7,"url":"http://x/"}')
        assert headers["error-message"].isprintable()
        assert int(headers["source-partition"]) == message.partition()

    def ended(outcome: str) -> float:
        return worker.metric(f'imgclust_uploads_total{{outcome="{outcome}"}}')

    same_again(topics, tags, model_folder)
    assert ended("dead") == len(bad) + 2
    assert worker.metric("imgclust_fetchers") == 1
    assert worker.metric("imgclust_slots_used") == 0
    for stage in ("consume", "fetch", "decode", "encode", "predict", "publish"):
        assert worker.metric(f'imgclust_stage_in_progress{{stage="{stage}"}}') == 0, stage
    assert ended("deleted") == 1
    assert sum(map(ended, ("tagged", "deleted", "dead", "superseded"))) == total
    assert ended("tagged") == sum(m.value() is not None for m in tags.messages)

    client = redis_store.client()
    wait_for(
        "the view has every tag", lambda: client.exists(*(f"imgclust:tag:{i}" for i in good)) == len(good)
    )
    feed = Feed(client)
    assert feed.get(list(good)) == {
        i: Tag.from_json(m.value() or b"") for i, m in tags.last().items() if i in good
    }
    wait_for("the deletion arrived", lambda: not client.hexists("imgclust:tag:gone", "tag"))
    assert client.hexists("imgclust:tag:gone", "position")

    assert worker.terminate() == 0, worker.text()
    offsets = {p: offset for p, (offset, _) in topics.committed().items()}
    assert sum(offsets.values()) == total
    tags.close()
    letters.close()


def same_again(topics: Topics, tags: Reader, model_folder: Path) -> None:
    """The embeddings topic says of each id what the tags topic says: nothing, deleted, or where it is."""
    kept = topics.reader(topics.embeddings)
    wait_for("embeddings", lambda: kept.read() and set(kept.last()) == set(tags.last()))
    model = ClusterModel.load(model_folder)
    for upload_id, message in kept.last().items():
        tag = tags.last()[upload_id]
        assert message.partition() == tag.partition()
        assert headers_of(message)["source-offset"] == headers_of(tag)["source-offset"]
        if tag.value() is None:
            assert message.value() is None
            continue
        record = read_embedding(message.value() or b"")
        assert record.identity == model.encoder
        told = Tag.from_json(tag.value() or b"")
        assert (record.id, record.url, record.uploaded_at) == (told.id, told.url, told.uploaded_at)
        assert record.attributes == told.attributes
        (again,) = rows(ModelInfo.of(model), [0], model.predict(record.vector[None].astype(np.float32)))
        assert (again.cluster, again.probability, again.novel) == (told.cluster, told.probability, told.novel)
        assert again.candidates == tuple((c.cluster, c.score) for c in told.candidates)
    kept.close()


def test_a_killed_worker_loses_nothing(
    topics: Topics, start: Start, origin: Origin, held_out: list[str]
) -> None:
    """kill -9 in the middle of the stream, with images in flight: the next worker goes on, and every id ends
    up tagged."""
    ids = [f"k{i}" for i in range(150)]
    origin.paths["/held.jpg"], release = held(origin, held_out[0])
    for i, upload_id in enumerate(ids):
        url = origin.url("/held.jpg" if i >= 142 else f"/{held_out[i % len(held_out)]}")
        topics.send(upload_id.encode(), upload(upload_id, url), i % PARTITIONS)
    topics.flush()
    tags = topics.reader(topics.tags)
    patient = {"WORKER_FETCH_TIMEOUT": "600", "WORKER_FETCH_SILENCE_TIMEOUT": "600"}
    first = start(PORTS=str(origin.port), WORKER_MAX_IN_FLIGHT="16", **SHORT_SESSION, **patient).ready()
    wait_for("some are tagged", lambda: len(tags.read()) > 20)
    first.signal(signal.SIGKILL)
    first.end()
    release()
    at_kill = len(tags.read(1.0))
    assert at_kill < len(ids)
    start(PORTS=str(origin.port), **SHORT_SESSION).ready()
    wait_for("all are tagged", lambda: tags.read() and set(tags.last()) == set(ids))
    again = len(tags.messages) - len(ids)
    assert again <= 16 + 64, "only what was in flight, or acknowledged and not committed, is done twice"
    tags.close()


def test_sigterm_finishes_what_is_in_flight(
    topics: Topics, start: Start, origin: Origin, held_out: list[str]
) -> None:
    """After SIGTERM an image that comes only then is still tagged and its offset committed; exit code 0."""
    origin.paths["/slow.jpg"], release = held(origin, held_out[0])
    topics.send(b"slow", upload("slow", origin.url("/slow.jpg")), 0)
    topics.flush()
    worker = start(PORTS=str(origin.port), WORKER_DRAIN_TIMEOUT="240").ready()
    wait_for("the slow image is asked for", lambda: origin.counts["/slow.jpg"] > 0)
    worker.signal(signal.SIGTERM)
    wait_for("it drains", lambda: any(e.get("event") == "draining" for e in worker.events()))
    release()
    assert worker.end() == 0, worker.text()
    tags = topics.reader(topics.tags)
    wait_for("it was tagged", lambda: tags.read() and "slow" in tags.last())
    assert topics.committed()[0][0] == 1
    del origin.counts["/slow.jpg"]
    tags.close()


def test_a_second_sigterm_leaves_at_once(topics: Topics, start: Start, origin: Origin) -> None:
    """The first one drains, the second one ends the process with code 130; the upload is left undone."""
    origin.paths["/never.jpg"] = silence
    topics.send(b"never", upload("never", origin.url("/never.jpg")), 0)
    topics.flush()
    worker = start(PORTS=str(origin.port), WORKER_FETCH_TIMEOUT="60", WORKER_DRAIN_TIMEOUT="60").ready()
    wait_for("the image is asked for", lambda: origin.counts["/never.jpg"] > 0)
    worker.signal(signal.SIGTERM)
    wait_for("it drains", lambda: any(e.get("event") == "draining" for e in worker.events()))
    worker.signal(signal.SIGTERM)
    assert worker.end() == 130
    assert topics.committed().get(0, (0, ""))[0] == 0
    del origin.counts["/never.jpg"]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_workers_come_and_go(
    topics: Topics, start: Start, origin: Origin, held_out: list[str], protocol: str
) -> None:
    """A second worker joins under load and leaves again: every id is tagged, and each had its share."""
    if protocol == "classic" and topics.kafka.kind.startswith("librdkafka"):
        pytest.skip("the mock cluster never hands a partition to a second member of a classic group")
    env = {"PORTS": str(origin.port), "WORKER_GROUP_PROTOCOL": protocol, "WORKER_MAX_IN_FLIGHT": "32"}
    tags = topics.reader(topics.tags)
    sent: list[str] = []

    def send(count: int) -> None:
        for _ in range(count):
            upload_id = f"r{len(sent)}"
            url = origin.url(f"/{held_out[len(sent) % len(held_out)]}")
            topics.send(upload_id.encode(), upload(upload_id, url), len(sent) % PARTITIONS)
            sent.append(upload_id)
        topics.flush()

    first = start(**env).ready()
    send(60)
    second = start(**env).ready()

    def shared() -> bool:
        if len(tags.read(0.1)) + 64 > len(sent):  # there is always something to do, and no heap of it
            send(4)
        return second.metric('imgclust_uploads_total{outcome="tagged"}') > 0

    wait_for("the second worker tags", shared)
    assert second.terminate() == 0, second.text()
    send(40)
    wait_for("all are tagged", lambda: tags.read() and set(tags.last()) == set(sent))
    assert first.terminate() == 0, first.text()
    tags.close()


def test_redis_down_delays_the_view_only(
    topics: Topics, start: Start, origin: Origin, held_out: list[str], redis_store: RedisServer
) -> None:
    """With Redis away from the start, tags are published; when it comes, the view catches up."""
    redis_store.kill()
    worker = start(PORTS=str(origin.port)).ready()
    ids = [f"v{i}" for i in range(30)]
    for i, upload_id in enumerate(ids):
        url = origin.url(f"/{held_out[i % len(held_out)]}")
        topics.send(upload_id.encode(), upload(upload_id, url), i % PARTITIONS)
    topics.flush()
    tags = topics.reader(topics.tags)
    wait_for("all are tagged without Redis", lambda: tags.read() and set(tags.last()) == set(ids))
    redis_store.start()
    client = redis_store.client()
    wait_for("the view has caught up", lambda: client.exists(*(f"imgclust:tag:{i}" for i in ids)) == len(ids))
    assert worker.terminate() == 0, worker.text()
    tags.close()


def test_a_slow_server_holds_up_nobody(
    topics: Topics, start: Start, origin: Origin, held_out: list[str]
) -> None:
    """One image that never comes, first in its partition: the ones behind it are tagged long before it fails,
    and what is done beyond the committed offset is in the commit's metadata."""
    origin.paths["/stuck.jpg"] = silence
    topics.send(b"stuck", upload("stuck", origin.url("/stuck.jpg")), 0)
    ids = [f"s{i}" for i in range(20)]
    for i, upload_id in enumerate(ids):
        topics.send(upload_id.encode(), upload(upload_id, origin.url(f"/{held_out[i]}")), 0)
    topics.flush()
    worker = start(PORTS=str(origin.port), WORKER_FETCH_TIMEOUT="120", WORKER_DRAIN_TIMEOUT="1").ready()
    tags = topics.reader(topics.tags)
    wait_for("those behind are tagged", lambda: tags.read() and set(tags.last()) == set(ids))
    wait_for("that is committed", lambda: topics.committed().get(0, (0, ""))[1] != "")
    assert topics.committed()[0][0] == 0
    assert worker.terminate() == 0, worker.text()
    again = start(PORTS=str(origin.port), WORKER_FETCH_TIMEOUT="120", WORKER_DRAIN_TIMEOUT="1").ready()
    wait_for("the stuck one is tried again", lambda: origin.counts["/stuck.jpg"] >= 2)
    topics.send(b"after", upload("after", origin.url(f"/{held_out[0]}")), 0)
    topics.flush()
    wait_for("one behind them is tagged", lambda: tags.read() and "after" in tags.last())
    assert len(tags.messages) == len(ids) + 1, "what the metadata says is done was done again"
    assert again.terminate() == 0
    del origin.counts["/stuck.jpg"]
    tags.close()


def test_retries_survive_the_worker(
    topics: Topics, start: Start, origin: Origin, held_out: list[str]
) -> None:
    """An upload that waits for another try holds no offset: it is in the retry topic, with what failed. The
    next worker finds it there and tags it, and takes the record back."""
    origin.paths["/later.jpg"] = response(b"", "503 Service Unavailable")
    topics.send(b"later", upload("later", origin.url("/later.jpg")), 2)
    topics.flush()
    retry, tags = topics.reader(topics.retry), topics.reader(topics.tags)
    port = str(origin.port)
    first = start(PORTS=port, WORKER_RETRY_FIRST="5", WORKER_RETRY_LIMIT="3")
    wait_for("it is handed over", retry.read)
    record = retry.messages[0]
    headers = headers_of(record)
    assert (record.key(), record.value()) == (b"later", upload("later", origin.url("/later.jpg")))
    assert (headers["attempt"], headers["error-code"], headers["source-partition"]) == (
        "1",
        "fetch-failed",
        "2",
    )
    assert first.terminate() == 0
    assert topics.committed()[2][0] == 1
    origin.paths["/later.jpg"] = origin.paths[f"/{held_out[0]}"]
    second = start(PORTS=port).ready()
    wait_for("the next worker tags it", tags.read)
    wait_for("the record is taken back", lambda: retry.read()[-1].value() is None)
    assert [m.key() for m in tags.messages] == [b"later"]
    wait_for("nothing waits", lambda: second.metric("imgclust_retries_pending") == 0)
    assert second.terminate() == 0


def test_latest_begins_at_the_end(topics: Topics, start: Start, origin: Origin, held_out: list[str]) -> None:
    """WORKER_START=latest: a new group leaves the past alone, and a restart of it does not skip anything."""
    url = origin.url(f"/{held_out[0]}")
    topics.send(b"old", upload("old", url), 0)
    topics.flush()
    worker = start(PORTS=str(origin.port), WORKER_START="latest").ready()
    wait_for("the position is committed", lambda: topics.committed().get(0, (0, ""))[0] == 1)
    assert worker.terminate() == 0
    topics.send(b"new", upload("new", url), 0)
    topics.flush()
    start(PORTS=str(origin.port), WORKER_START="latest").ready()
    tags = topics.reader(topics.tags)
    wait_for("the new one is tagged", lambda: tags.read() and set(tags.last()) == {"new"})
    tags.close()


@pytest.mark.kafka
def test_records_that_retention_took_are_counted(
    apache_kafka: object, start: Start, topics: Topics, origin: Origin, held_out: list[str]
) -> None:
    """When the log's start has passed the committed offset: so many records are counted as lost, an error is
    logged, and the rest is tagged."""
    if topics.kafka is not apache_kafka:
        pytest.skip("the mock cluster cannot delete records")
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    url = origin.url(f"/{held_out[0]}")
    topics.send(b"a0", upload("a0", url), 0)
    topics.flush()
    worker = start(PORTS=str(origin.port)).ready()
    wait_for("the first is committed", lambda: topics.committed().get(0, (0, ""))[0] == 1)
    assert worker.terminate() == 0
    for i in range(1, 10):
        topics.send(b"a%d" % i, upload(f"a{i}", url), 0)
    topics.flush()
    admin = AdminClient({"bootstrap.servers": topics.bootstrap})
    for future in admin.delete_records([TopicPartition(topics.uploads, 0, 6)]).values():
        future.result(PATIENCE)
    again = start(PORTS=str(origin.port)).ready()
    tags = topics.reader(topics.tags)
    wait_for("the rest is tagged", lambda: tags.read() and {"a6", "a7", "a8", "a9"} <= set(tags.last()))
    assert again.metric("imgclust_consumer_records_lost_total") == 5
    assert not {"a1", "a5"} & set(tags.last())
    tags.close()


def test_view_alone_and_tagger_alone(
    topics: Topics, start: Start, origin: Origin, held_out: list[str], redis_store: RedisServer
) -> None:
    """`run --no-view` writes nothing to Redis; `view` in a process of its own does."""
    url = origin.url(f"/{held_out[0]}")
    topics.send(b"one", upload("one", url), 0)
    topics.flush()
    tagger = start("run", "--no-view", PORTS=str(origin.port)).ready()
    tags = topics.reader(topics.tags)
    wait_for("it is tagged", lambda: len(tags.read()) == 1)
    client = redis_store.client()
    assert client.dbsize() == 0
    view = start("view", PORTS=str(origin.port))
    wait_for("the view has it", lambda: client.exists("imgclust:tag:one"))
    assert view.terminate() == 0, view.text()
    client.delete("imgclust:tag:one")
    again = start("view", "--rebuild", PORTS=str(origin.port))
    wait_for("a rebuild brings it back", lambda: client.exists("imgclust:tag:one"))
    assert again.terminate() == 0, again.text()
    assert tagger.terminate() == 0, tagger.text()
    tags.close()


def test_logs_are_json_and_carry_nothing_unescaped(topics: Topics, start: Start, origin: Origin) -> None:
    """A hostile id, URL and event reach the log only escaped: every line is one JSON object."""
    evil = 'x\n{"level":"ERROR"}\x1b[2J\u202e'
    topics.send(b"evil", upload(evil, "http://127.0.0.1:1/\r\nHost: evil\x00"), 0)
    topics.send(b"\x00\xff\n", b"\x00\xff\n{", 0)
    topics.flush()
    worker = start(PORTS=str(origin.port)).ready()
    letters = topics.reader(topics.dlq)
    wait_for("both are dead letters", lambda: len(letters.read()) == 2)
    assert worker.terminate() == 0
    for line in worker.log.read_bytes().decode("utf-8").splitlines():
        assert all(c.isprintable() for c in line), line
        json.loads(line)
    letters.close()
