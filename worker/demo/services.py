"""What the demo starts and ends: Kafka, Redis, the image server, and the worker as a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from worker.demo.backends import Kafka, MockKafka, choose_kafka, free_ports, valkey_url
from worker.demo.image_server import ImageServer
from worker.demo.samples import Samples
from worker.demo.training import Trained
from worker.errors import WorkerError
from worker.feed import Feed
from worker.kafka.topics import look
from worker.settings.load import load
from worker.wiring import topics_config

if TYPE_CHECKING:
    from worker.demo.screen import Screen

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
READY_SECONDS = 120.0
STOP_SECONDS = 40.0  # WORKER_DRAIN_TIMEOUT is 25
HURRIES = (4.0, 8.0)  # seconds after each SIGTERM, where nobody waits for results any more
LOG_LINES = 20


class Worker:
    """`imgclust-worker run` as a process of its own; a context manager that leaves none behind.

    Args:
        environment: the worker's settings.
        address: host:port of its metrics, or of the wall.
        log: the file that it logs to.
        command: another command of `imgclust-worker` that says on `/readyz` whether it is ready.
    """

    def __init__(self, environment: Mapping[str, str], address: str, log: Path, command: str = "run") -> None:
        self._environment = environment
        self._address = address
        self._command = command
        self._name = "the worker" if command == "run" else f"imgclust-worker {command}"
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker", self._command],
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the worker in order
            )
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        for seconds in HURRIES:  # the first SIGTERM asks to drain, the second to leave at once
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=seconds)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its fetchers with it
        process.wait()

    def check(self) -> None:
        """Raises WorkerError, with the end of the log, if the worker has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise WorkerError(f"{self._name} ended by itself, exit code {code}; {self.last_words()}")

    def last_words(self) -> str:
        """The end of the log, for people."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        shown = "\n".join(lines) or "(it is empty)"
        return f"the end of its log {self.log}:\n{shown}"

    def wait_until_ready(self) -> None:
        """Raises WorkerError if it ends, or is not ready in time."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self.check()
            if self._get("/readyz") is not None:
                return
            time.sleep(0.1)
        raise WorkerError(f"{self._name} was not ready within {READY_SECONDS:g} s; see {self.log}")

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://{self._address}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except (OSError, http.client.HTTPException):  # an HTTP error, 503 from /readyz, is an OSError as well
            return None

    def samples(self) -> Samples:
        """What /metrics says now; nothing if it does not answer."""
        return Samples(self._get("/metrics") or "")

    def stop(self) -> int:
        """SIGTERM, as an orchestrator does; returns the exit code.

        Raises:
            WorkerError: it does not end in time.
        """
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise WorkerError(f"{self._name} did not end within {STOP_SECONDS:g} s of SIGTERM") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Services:
    """What the demo runs on, all of it up.

    Attributes:
        kafka: librdkafka's properties that connect.
        topics: uploads, tags, retries, dead letters.
        wall: the address of the page to look at.
    """

    kafka: Mapping[str, str]
    topics: tuple[str, str, str, str]
    images: ImageServer
    worker: Worker
    wall: str
    feed: Feed


@dataclasses.dataclass(frozen=True, slots=True)
class Backends:
    """Kafka and Redis, up.

    Attributes:
        topics: uploads, tags, retries, dead letters.
        shared: whether it is somebody's own Kafka, with more in it than the demo's topics.
    """

    kafka: Kafka
    topics: tuple[str, str, str, str]
    shared: bool
    redis_url: str


@contextlib.contextmanager
def started() -> Iterator[contextlib.ExitStack]:
    """A stack for what is started. Its end takes seconds, and no signal interrupts it."""
    with contextlib.ExitStack() as stack:
        try:
            yield stack
        finally:
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)


def start_backends(screen: Screen, stack: contextlib.ExitStack, address: str | None) -> Backends:
    """Start Kafka and Redis, or reach the Kafka at `address`, host:port.

    Raises:
        StartError: what is needed is not there, or does not answer.
    """
    screen.step("Kafka and Redis")
    with screen.console.status("they start"):
        kafka = stack.enter_context(choose_kafka(address))
        if address:
            look(
                topics_config(
                    load(worker_environment({"WORKER_BOOTSTRAP_SERVERS": address}, keep_kafka=True))
                )
            )
        redis_url = stack.enter_context(valkey_url())
    names = topic_names(f"demo-{time.strftime('%Y%m%d-%H%M%S')}-" if address else "")
    if address:
        screen.say(f"{kafka.kind}; topics of this run, which are kept: {', '.join(names)}")
    else:
        screen.say(f"Kafka: {kafka.kind}, {kafka.bootstrap}")
    screen.say(f"Redis: an embedded Valkey, {redis_url}")
    return Backends(kafka, names, address is not None, redis_url)


def start_worker(
    screen: Screen, stack: contextlib.ExitStack, backends: Backends, trained: Trained, out: Path
) -> Services:
    """Start the image server, the worker and the wall, and wait until they are ready; their logs go to `out`.

    Raises:
        WorkerError: the worker does not start; the text has the end of its log.
    """
    screen.step("Worker")
    images = stack.enter_context(ImageServer(trained.files))
    if isinstance(backends.kafka, MockKafka):
        backends.kafka.create_topics(backends.topics)
    metrics, wall = (f"127.0.0.1:{port}" for port in free_ports(2))
    settings = _settings(trained, backends, images.port, metrics, wall)
    environment = worker_environment(settings, keep_kafka=backends.shared)
    worker = stack.enter_context(Worker(environment, metrics, out / "worker.log"))
    page = stack.enter_context(Worker(environment, wall, out / "wall.log", command="wall"))
    with screen.console.status("it starts"):
        worker.wait_until_ready()
        page.wait_until_ready()
    screen.say(f"watch it live: http://{wall}/", "bold")
    screen.say(f"imgclust-worker run, as in production; its log: {worker.log}")
    screen.say(f"metrics: http://{metrics}/metrics, pictures: http://127.0.0.1:{images.port}/images/…")
    connection = {**load(environment).kafka, "bootstrap.servers": backends.kafka.bootstrap}
    feed = Feed.from_url(backends.redis_url, timeout=10)
    return Services(connection, backends.topics, images, worker, f"http://{wall}/", feed)


def _settings(trained: Trained, backends: Backends, images: int, metrics: str, wall: str) -> dict[str, str]:
    """The worker's settings: what production sets, and leave to fetch from this machine."""
    uploads, tags, retry, dead = backends.topics
    return {
        "WORKER_MODEL": str(trained.model),
        "WORKER_BOOTSTRAP_SERVERS": backends.kafka.bootstrap,
        "WORKER_GROUP_ID": uploads,
        "WORKER_UPLOADS_TOPIC": uploads,
        "WORKER_TAGS_TOPIC": tags,
        "WORKER_RETRY_TOPIC": retry,
        "WORKER_DLQ_TOPIC": dead,
        "WORKER_CREATE_TOPICS": "false" if isinstance(backends.kafka, MockKafka) else "true",
        # the mock cluster stores no offsets that are sent in a transaction
        "WORKER_DELIVERY": "at-least-once" if isinstance(backends.kafka, MockKafka) else "exactly-once",
        "WORKER_PARTITIONS": "4",
        "WORKER_REDIS_URL": backends.redis_url,
        "WORKER_HTTP": metrics,
        "WORKER_WALL": wall,
        "WORKER_WALL_IMAGES": f"http://127.0.0.1:{images}",
        "WORKER_FETCH_ALLOW_NETWORKS": "127.0.0.0/8",
        "WORKER_FETCH_ALLOW_PORTS": str(images),
        "WORKER_RETRY_LIMIT": "2",  # a missing picture is known as missing after a second, not after minutes
        "WORKER_RETRY_FIRST": "0.5",
        "WORKER_LOG": "text",
    }


def worker_environment(settings: Mapping[str, str], *, keep_kafka: bool) -> dict[str, str]:
    """This process's environment with the worker's settings replaced by `settings`.

    Args:
        keep_kafka: WORKER_KAFKA_… stays: how to connect to somebody's own brokers.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WORKER_") or (keep_kafka and name.startswith("WORKER_KAFKA_"))
    }
    return {**kept, **settings}


def topic_names(prefix: str) -> tuple[str, str, str, str]:
    """Uploads, tags, retries, dead letters."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", prefix)
    return f"{name}uploads", f"{name}tags", f"{name}uploads.retry", f"{name}uploads.dlq"
