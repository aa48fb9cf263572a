"""What a worker rests on, all of it real and this run's own, and how each part is broken."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient, ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tests.support import forked_fetchers, redis_server
from tests.support.guarded_kafka import GuardedKafka, Right
from tests.support.kafka_cluster import topic_id
from tests.support.paths import ROOT
from tests.support.preloaded import Preloaded, Program, started
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import WorkerProcess
from worker.demo.backends import JavaKafka, await_topics, free_ports

PARTITIONS = 12  # two, three and four workers get equal shares, so that a fourth one takes some from each
EXIT_START = 3  # something that a start needs is not there
SESSION = 5.0  # seconds after which the group gives a silent member's partitions away
FOLDER = Path(__file__).parent
SUBJECT = "tests.faults.subject"
EVERYTHING: list[Right] = [
    (kind, "*", ResourcePatternType.LITERAL, AclOperation.ALL)
    for kind in (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
]
# the run's own clients complain of every broker that it kills
quiet = logging.getLogger("faults.kafka")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False


@dataclasses.dataclass(frozen=True, slots=True)
class Topics:
    """The names of one run."""

    uploads: str
    tags: str
    retry: str
    dlq: str
    group: str

    @classmethod
    def of(cls, run: str) -> Topics:
        return cls(
            f"uploads-{run}", f"tags-{run}", f"uploads-{run}.retry", f"uploads-{run}.dlq", f"group-{run}"
        )


def start_kafka(home: Path, folder: Path, *, guarded: bool) -> JavaKafka:
    """A broker of this run's own, which it may kill and freeze; `guarded`: with rights to withdraw."""
    options = {
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.session.timeout.ms": str(int(SESSION * 1000)),
        "group.consumer.min.heartbeat.interval.ms": "500",
        "group.consumer.heartbeat.interval.ms": "1000",
    }
    return GuardedKafka(home, folder, options) if guarded else JavaKafka(home, folder, options=options)


def make_topics(bootstrap: str, names: Sequence[str], compacted: Set[str], partitions: int) -> None:
    """Compacted as in production, but not within this run: the checker wants to see every record."""
    admin = AdminClient({"bootstrap.servers": bootstrap}, logger=quiet)
    kept = {"cleanup.policy": "compact", "min.compaction.lag.ms": str(7 * 86_400_000)}
    wanted = [NewTopic(name, partitions, 1, config=kept if name in compacted else {}) for name in names]
    for future in admin.create_topics(wanted).values():
        future.result(timeout=PATIENCE)
    await_topics(admin, names)


class Broker:
    """The one broker."""

    def __init__(self, kafka: JavaKafka, topics: Topics) -> None:
        self.kafka, self.topics = kafka, topics
        self._partitions = PARTITIONS

    def add_partition(self, seconds: float) -> None:
        """The uploads topic gets one more partition, which stays empty, and the others get it later."""
        self._partitions += 1
        admin = AdminClient({"bootstrap.servers": self.bootstrap}, logger=quiet)
        for names in ([self.topics.uploads], [self.topics.retry, self.topics.tags, self.topics.dlq]):
            wanted = [NewPartitions(name, self._partitions) for name in names]
            for future in admin.create_partitions(wanted).values():
                future.result(timeout=PATIENCE)
            if names == [self.topics.uploads]:
                time.sleep(seconds)

    def make_anew(self) -> str:
        """The topics of uploads and retries are deleted and made again; the new id of the first."""
        gone = [self.topics.uploads, self.topics.retry]
        admin = AdminClient({"bootstrap.servers": self.bootstrap}, logger=quiet)
        for future in admin.delete_topics(gone).values():
            future.result(timeout=PATIENCE)

        def made() -> bool:
            with contextlib.suppress(KafkaException):  # it is not gone everywhere yet
                make_topics(self.bootstrap, gone, {self.topics.retry}, self._partitions)
                return True
            return False

        wait_for("they can be made again", made)
        wait_for("it has an id", lambda: topic_id(admin, self.topics.uploads))
        return topic_id(admin, self.topics.uploads)

    def forbid(self) -> None:
        """Workers may write no tags."""
        self._guarded.forbid(self._write_tags)

    def allow(self) -> None:
        self._guarded.allow_again(self._write_tags)

    @property
    def _guarded(self) -> GuardedKafka:
        assert isinstance(self.kafka, GuardedKafka)
        return self.kafka

    @property
    def _write_tags(self) -> Right:
        return ResourceType.TOPIC, self.topics.tags, ResourcePatternType.LITERAL, AclOperation.WRITE

    def cut_log(self) -> bool:
        """Retention takes what the group is done with, up to the committed offsets; whether there is any."""
        config = {"bootstrap.servers": self.bootstrap, "group.id": self.topics.group}
        asking = Consumer({**config, "enable.auto.commit": False}, logger=quiet)
        asked = [TopicPartition(self.topics.uploads, partition) for partition in range(PARTITIONS)]
        cut = [found for found in asking.committed(asked, timeout=PATIENCE) if found.offset > 0]
        asking.close()
        admin = AdminClient({"bootstrap.servers": self.bootstrap}, logger=quiet)
        for future in admin.delete_records(cut).values() if cut else ():
            future.result(timeout=PATIENCE)
        return bool(cut)

    @property
    def bootstrap(self) -> str:
        return self.kafka.bootstrap

    def restart(self, away: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kill it, leave it away for so long, start it again."""
        assert self.kafka.process is not None
        self.kafka.process.kill()
        self.kafka.process.wait()
        meanwhile()
        time.sleep(away)
        self.kafka.start()

    def freeze(self, seconds: float) -> None:
        """It keeps its connections and answers nothing."""
        assert self.kafka.process is not None
        self.kafka.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.kafka.process.send_signal(signal.SIGCONT)


class ImageServer:
    """`server.py` on a port that stays the same."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, str(FOLDER / "server.py"), str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the image server did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Worker(WorkerProcess):
    """One worker under test.

    Args:
        number: of this worker in the run.
        server: forks it.

    Attributes:
        expected: exit codes that what was done to it may bring; None while nothing was done to it.
    """

    def __init__(self, number: int, folder: Path, env: dict[str, str], server: Preloaded) -> None:
        super().__init__(folder, env, "run", program=SUBJECT)
        self.log = folder / f"worker-{number:03}.log"
        self.number = number
        self.expected: set[int] | None = None
        self._server = server

    def start(self) -> Worker:
        self.process = Program(self.program, *self.arguments, env=self.env, log=self.log, server=self._server)
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, by itself or by us."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            return urllib.request.urlopen(f"http://{self.address}/readyz", timeout=2).status == 200
        return False

    def kill(self) -> None:
        """kill -9; its fetchers end by themselves."""
        self.expected = {-signal.SIGKILL}
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
        self.end()

    def freeze(self, seconds: float) -> None:
        self.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.signal(signal.SIGCONT)

    def fetchers(self) -> list[int]:
        """The process ids of its fetchers."""
        return forked_fetchers.of(self.pid)


@dataclasses.dataclass(slots=True)
class Surroundings:
    """All parts of one run."""

    folder: Path
    topics: Topics
    broker: Broker
    redis: redis_server.RedisServer
    images: ImageServer
    env: dict[str, str]  # for every worker
    say: Callable[[str], None]
    server: Preloaded  # forks the workers
    workers: list[Worker] = dataclasses.field(default_factory=list)
    ended: list[Worker] = dataclasses.field(default_factory=list)
    restarts: int = 0  # of workers that ended by themselves

    def join(self, **env: str) -> Worker:
        """One more worker."""
        worker = Worker(len(self.workers) + len(self.ended), self.folder, {**self.env, **env}, self.server)
        self.workers.append(worker.start())
        return worker

    def gone(self, worker: Worker) -> None:
        """It has ended."""
        self.workers.remove(worker)
        self.ended.append(worker)

    def kill(self, worker: Worker) -> None:
        worker.kill()
        self.gone(worker)

    def leave(self, worker: Worker, patience: float = 120, *, armed: bool = False) -> bool:
        """SIGTERM: it finishes what is in flight and leaves; an `armed` one may die or freeze on the way.

        Returns:
            Whether it froze itself. It is woken then, soon enough to be still in the group or not.
        """
        worker.expected = {0, -signal.SIGKILL} if armed else {0}
        if not worker.log.stat().st_size:  # still loading: nothing is there yet that could be finished
            worker.expected = worker.expected | {-signal.SIGTERM}
        worker.signal(signal.SIGTERM)
        froze, deadline = False, time.monotonic() + patience
        while worker.code is None and time.monotonic() < deadline:
            if armed and worker.stopped:
                froze = True
                time.sleep(SESSION + 2)
                worker.signal(signal.SIGCONT)
            time.sleep(0.05)
        if worker.code is None:
            self.say(f"worker {worker.number} does not leave within {patience:g} s")
            worker.expected = set()
            worker.signal(signal.SIGKILL)
            worker.end()
        self.gone(worker)
        return froze

    def watch(self) -> None:
        """Replace workers that ended by themselves, as an orchestrator would."""
        for worker in list(self.workers):
            if worker.code is not None:
                self.say(f"worker {worker.number} ended by itself with {worker.code}")
                self.restarts += 1
                self.gone(worker)
                self.join()

    def wait_ready(self, worker: Worker, seconds: float = 240) -> bool:
        """Whether it came to be ready (or ended) in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and worker.code is None:
            if worker.is_ready():
                return True
            time.sleep(0.1)
        return False


@contextlib.contextmanager
def surroundings(
    home: Path,
    folder: Path,
    run: str,
    env: dict[str, str],
    say: Callable[[str], None],
    *,
    guarded: bool = False,
) -> Iterator[Surroundings]:
    """Kafka, Redis and the image server, started; workers that are left at the end are killed.

    Args:
        guarded: workers log in, and their rights can be withdrawn.
    """
    topics, images = Topics.of(run), ImageServer()
    with (
        start_kafka(home, folder / "kafka", guarded=guarded) as kafka,
        redis_server.running() as redis,
        started("worker.run", "worker.__main__") as forking,
        forked_fetchers.server() as fetchers,
    ):
        names = [topics.uploads, topics.tags, topics.retry, topics.dlq]
        make_topics(kafka.bootstrap, names, {topics.tags, topics.retry}, PARTITIONS)
        login = {}
        if isinstance(kafka, GuardedKafka):
            kafka.grant(EVERYTHING)
            login = kafka.settings
        images.start()
        worker_env = {
            "PYTHONPATH": str(ROOT),
            forked_fetchers.FORKING: fetchers,
            "WORKER_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "WORKER_GROUP_ID": topics.group,
            "WORKER_UPLOADS_TOPIC": topics.uploads,
            "WORKER_TAGS_TOPIC": topics.tags,
            "WORKER_RETRY_TOPIC": topics.retry,
            "WORKER_DLQ_TOPIC": topics.dlq,
            "WORKER_REDIS_URL": redis.url,
            "WORKER_FETCH_ALLOW_PORTS": str(images.port),
            "WORKER_FETCH_TIMEOUT": "5",
            "WORKER_FETCHERS": "1",
            "WORKER_MAX_BATCH": "32",
            "WORKER_MAX_WAIT": "0.01",
            "WORKER_MAX_IN_FLIGHT": "256",
            "WORKER_RETRY_FIRST": "0.3",
            "WORKER_RETRY_MAX": "2",
            "WORKER_RETRY_LIMIT": "5",
            "WORKER_DRAIN_TIMEOUT": "10",
            "WORKER_STALL_TIMEOUT": "90",  # longer than anything is frozen, shorter than the run waits
            "WORKER_LOG": "json",
            "WORKER_KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS": "2000",  # partitions that are added are found
            **env,
            **login,
        }
        if worker_env.get("WORKER_GROUP_PROTOCOL") != "consumer":
            worker_env |= {
                "WORKER_KAFKA_SESSION_TIMEOUT_MS": str(int(SESSION * 1000)),
                "WORKER_KAFKA_HEARTBEAT_INTERVAL_MS": "1000",
            }
        parts = Surroundings(
            folder, topics, Broker(kafka, topics), redis, images, worker_env, say, Preloaded(forking)
        )
        try:
            yield parts
        finally:
            for worker in list(parts.workers):
                with contextlib.suppress(Exception):
                    parts.kill(worker)
            images.kill()
