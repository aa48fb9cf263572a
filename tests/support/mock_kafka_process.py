"""librdkafka's mock cluster in a process of its own, which can be frozen as a broker's machine can."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

PROGRAM = """
import sys
from worker.demo.backends import MockKafka
with MockKafka() as kafka:
    kafka.create_topics(sys.argv[1:])
    print(kafka.bootstrap, flush=True)
    sys.stdin.read()
"""


class MockKafkaProcess:
    """A cluster of one broker, with topics of four partitions."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.bootstrap = process.stdout.readline().strip()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(*topics: str) -> Iterator[MockKafkaProcess]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *topics], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield MockKafkaProcess(process)
        finally:
            process.kill()
