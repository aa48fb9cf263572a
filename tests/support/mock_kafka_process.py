"""librdkafka's mock cluster in a process of its own, which can be frozen as a broker's machine can."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.preloaded import Program
from tests.support.waiting import wait_for


class MockKafkaProcess:
    """A cluster of one broker, with topics of four partitions."""

    def __init__(self, program: Program, bootstrap: str) -> None:
        self._program = program
        self.bootstrap = bootstrap

    def freeze(self) -> None:
        self._program.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._program.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(*topics: str) -> Iterator[MockKafkaProcess]:
    with tempfile.TemporaryDirectory(prefix="imgclust-mock-") as folder:
        log, errors = Path(folder) / "log", Path(folder) / "errors"
        program = Program(__name__, *topics, env=os.environ, log=log, errors=errors)
        try:
            wait_for("the mock cluster", lambda: log.read_text().endswith("\n") or program.poll())
            assert program.poll() is None, errors.read_text()
            yield MockKafkaProcess(program, log.read_text().strip())
        finally:
            program.kill()
            program.wait()


def main(topics: list[str]) -> None:
    """Until somebody kills it."""
    from worker.demo.backends import MockKafka

    with MockKafka() as kafka:
        kafka.create_topics(topics)
        print(kafka.bootstrap, flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
