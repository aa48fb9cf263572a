"""`imgclust-worker run` as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from tests.support import forked_fetchers, quick_worker
from tests.support.kafka_cluster import Topics
from tests.support.preloaded import Program
from tests.support.waiting import PATIENCE, wait_for
from worker.demo.backends import free_ports


def settings_for(topics: Topics, redis_url: str, model: Path, port: int | str) -> dict[str, str]:
    """What a worker needs to serve a test's own topics, fetching from a server on `port`."""
    return {
        "WORKER_BOOTSTRAP_SERVERS": topics.bootstrap,
        "WORKER_GROUP_ID": topics.group,
        "WORKER_DELIVERY": topics.delivery,
        "WORKER_UPLOADS_TOPIC": topics.uploads,
        "WORKER_TAGS_TOPIC": topics.tags,
        "WORKER_RETRY_TOPIC": topics.retry,
        "WORKER_DLQ_TOPIC": topics.dlq,
        "WORKER_REDIS_URL": redis_url,
        "WORKER_MODEL": str(model),
        "WORKER_FETCH_ALLOW_PORTS": str(port),
    }


class WorkerProcess:
    """One worker with settings of its own; `env` wins over the defaults for tests.

    Args:
        program: `worker`, whose fetchers are its children, or one whose fetchers are forked.
    """

    def __init__(
        self, folder: Path, env: dict[str, str], *arguments: str, program: str = quick_worker.__name__
    ) -> None:
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.log = folder / f"worker-{port}.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WORKER_")}
        self.env = {
            **clean,
            "WORKER_HTTP": self.address,
            "WORKER_FETCH_ALLOW_NETWORKS": "127.0.0.0/8",
            "WORKER_FETCHERS": "1",
            "WORKER_DEVICE": "cpu",
            "WORKER_MAX_BATCH": "4",  # a start tries every size up to this one
            "WORKER_RETRY_FIRST": "0.1",
            "WORKER_RETRY_LIMIT": "2",
            "WORKER_LOG": "json",
            **env,
        }
        if program == quick_worker.__name__:
            self.env.setdefault(forked_fetchers.FORKING, forked_fetchers.address())
        self.program, self.arguments = program, arguments or ("run",)
        self.process: subprocess.Popen[bytes] | Program | None = None

    def start(self) -> WorkerProcess:
        self.process = Program(self.program, *self.arguments, env=self.env, log=self.log)
        return self

    def ready(self) -> WorkerProcess:
        """Wait until `/readyz` says so."""

        def is_ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.text()
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                return urllib.request.urlopen(f"http://{self.address}/readyz", timeout=2).status == 200
            return False

        wait_for("the worker is ready", is_ready)
        return self

    def text(self) -> str:
        return self.log.read_text()[-6000:]

    def events(self) -> list[dict[str, object]]:
        """The log's lines."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def metric(self, sample: str) -> float:
        """One sample of `/metrics` by its text, e.g. `imgclust_uploads_total{outcome="dead"}`."""
        text = urllib.request.urlopen(f"http://{self.address}/metrics", timeout=PATIENCE).read().decode()
        for line in text.splitlines():
            if line.startswith(sample + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no sample {sample} in /metrics")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, seconds: float = PATIENCE) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(timeout=seconds)

    def terminate(self) -> int:
        self.signal(signal.SIGTERM)
        return self.end()

    def __enter__(self) -> WorkerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
