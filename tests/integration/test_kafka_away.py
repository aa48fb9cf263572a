"""A broker that is away: whoever needs it waits, stays alive, and goes on when it is back."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support import mock_kafka_process
from tests.support.mock_kafka_process import MockKafkaProcess
from tests.support.origin import Origin, response
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import WorkerProcess
from worker.kafka.client_config import view_config
from worker.kafka.retention import DeleteRetention
from worker.kafka.topic_ids import TopicIds
from worker.messages.tag import Tag
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics
from worker.view.client import connect
from worker.view.consumer import ViewConsumer
from worker.view.keys import Keys
from worker.view.store import TagsView

# seconds of a round: several questions of a second each, on a slow machine; the client's own patience is 60 s
LONG = 30.0
TOPICS = ("uploads", "tags", "uploads.retry", "uploads.dlq")


@pytest.fixture
def broker() -> Iterator[MockKafkaProcess]:
    with mock_kafka_process.running(*TOPICS) as started:
        yield started


class Beats(Health):
    """Health that remembers every beat."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.waits: list[str] = []

    def beat(self, loop: str, waits_for: str = "") -> None:
        super().beat(loop, waits_for)
        self.times.append(self._clock())
        self.waits.append(waits_for)

    @property
    def longest_round(self) -> float:
        return max(after - before for before, after in pairwise(self.times))


def tag(upload_id: str) -> bytes:
    now = 1_795_000_000_000
    return Tag(upload_id, 1, "n", 0.5, (), False, "m1", "t1", None, now, now, {}).to_json()


@pytest.mark.redis
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_the_views_loop_goes_on(broker: MockKafkaProcess, redis_store: RedisServer, protocol: str) -> None:
    """With the broker frozen in the middle of commits, of a rebuild and of a look at the topic's end, no
    round of the loop takes seconds and `/healthz` shows what it waits for; back again, all is in Redis."""
    kafka = {"bootstrap.servers": broker.bootstrap, "log_level": 0}
    health, stop = Beats(), threading.Event()
    client = connect(redis_store.url)
    view = ViewConsumer(
        view_config(kafka, "g.view", protocol), "tags", TagsView(client), metrics=Metrics(), health=health,
        retention=DeleteRetention(kafka, "tags"),
        ids=TopicIds(kafka, ["tags"]),
    )  # fmt: skip
    producer = Producer(kafka)

    def send(name: str) -> None:
        for number in range(50):
            producer.produce("tags", tag(f"{name}{number}"), f"{name}{number}".encode(), number % 4)

    def has(count: int) -> bool:
        return sum(1 for _ in client.scan_iter(Keys().tag("*"))) == count

    thread = threading.Thread(target=view.run, args=(stop,))
    thread.start()
    try:
        send("a")
        wait_for("the view", lambda: producer.flush(0.1) == 0 and has(50))
        view._recovery._next_edges = 0.0
        view.rebuild()
        broker.freeze()
        send("b")
        wait_for("the view waits", lambda: health.waits[-1] == "Kafka")
        rounds = len(health.times)
        wait_for("rounds of the loop", lambda: len(health.times) > rounds + 20)
        assert health.alive()[0]
        assert health.alive()[1]["loops"]["view"]["waits_for"] == "Kafka"
        broker.thaw()
        wait_for("the rest", lambda: producer.flush(0.1) == 0 and has(100))
        wait_for("the end of waiting", lambda: health.waits[-1] == "")
        assert health.longest_round < LONG
    finally:
        broker.thaw()
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def ask(worker: WorkerProcess, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://{worker.address}{path}", timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, {}


@pytest.mark.parametrize("command", ["run", "view"])
def test_a_start_waits_for_kafka(
    broker: MockKafkaProcess, redis_store: RedisServer, tmp_path: Path, command: str
) -> None:
    """It is alive and not ready, and says so; then it goes on: the view is ready, `run` misses its model."""
    broker.freeze()
    env = {"WORKER_BOOTSTRAP_SERVERS": broker.bootstrap, "WORKER_REDIS_URL": redis_store.url}
    worker = WorkerProcess(tmp_path, env, command).start()
    process = worker.process
    assert process is not None
    try:
        wait_for("the wait", lambda: ask(worker, "/healthz")[1].get("loops", {}).get("start"))
        status, health = ask(worker, "/healthz")
        assert (status, health["loops"]["start"]["waits_for"]) == (200, "Kafka")
        status, ready = ask(worker, "/readyz")
        assert (status, ready["conditions"]["kafka"]["reason"]) == (503, "waits for Kafka")
        wait_for("the log", lambda: "waiting for Kafka" in worker.log.read_text())
        broker.thaw()
        if command == "view":
            wait_for("the view", lambda: ask(worker, "/readyz")[0] == 200)
            process.terminate()
            assert process.wait(PATIENCE) == 0
        else:
            assert process.wait(PATIENCE) == 3
            assert "WORKER_MODEL" in worker.log.read_text()
    finally:
        broker.thaw()
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", ["run", "view"])
def test_a_signal_ends_the_wait(broker: MockKafkaProcess, tmp_path: Path, command: str) -> None:
    """SIGTERM while it waits at the start: exit code 0, as nothing is in flight."""
    broker.freeze()
    worker = WorkerProcess(tmp_path, {"WORKER_BOOTSTRAP_SERVERS": broker.bootstrap}, command).start()
    process = worker.process
    assert process is not None
    try:
        wait_for("the wait", lambda: ask(worker, "/healthz")[0] == 200)
        wait_for("the log", lambda: "waiting for Kafka" in worker.log.read_text())
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_taggers_loop_goes_on(
    broker: MockKafkaProcess, redis_store: RedisServer, model_folder: Path, tmp_path: Path
) -> None:
    """The broker freezes while an image is fetched: its dead letter waits, the loop turns on, and `/healthz`
    is 200 and names Kafka; back again, the dead letter is there."""
    released = threading.Event()

    async def late(reader: Any, writer: Any, request: Any) -> None:
        await asyncio.to_thread(released.wait)
        writer.write(response(status="410 Gone"))

    with Origin({"/late": late}).running() as origin:
        env = {
            "WORKER_BOOTSTRAP_SERVERS": broker.bootstrap, "WORKER_REDIS_URL": redis_store.url,
            "WORKER_MODEL": str(model_folder), "WORKER_DELIVERY": "at-least-once",
            "WORKER_FETCH_ALLOW_PORTS": str(origin.port), "WORKER_FETCH_SILENCE_TIMEOUT": "100",
            "WORKER_FETCH_TIMEOUT": "100", "WORKER_RETRY_LIMIT": "1",
        }  # fmt: skip
        with WorkerProcess(tmp_path, env) as worker:
            worker.ready()
            producer = Producer({"bootstrap.servers": broker.bootstrap})
            event = json.dumps({"id": "a", "url": origin.url("/late"), "uploaded_at": "2020-01-01T00:00:00Z"})
            producer.produce("uploads", event.encode(), b"a", 0)
            wait_for("the request", lambda: producer.flush(0.1) == 0 and origin.requests)
            broker.freeze()
            try:
                released.set()
                wait_for("it waits", lambda: tagger(worker).get("waits_for") == "Kafka")
                assert ask(worker, "/healthz")[0] == 200
                polls = worker.metric("imgclust_poll_gap_seconds")
                assert polls < LONG
            finally:
                broker.thaw()
            wait_for("the end of waiting", lambda: "waits_for" not in tagger(worker))
            assert worker.metric('imgclust_uploads_total{outcome="dead"}') == 1
            assert worker.terminate() == 0


def tagger(worker: WorkerProcess) -> dict[str, Any]:
    loops: dict[str, Any] = ask(worker, "/healthz")[1].get("loops", {})
    found: dict[str, Any] = loops.get("tagger", {})
    return found
