"""Python programs that start at once: forked from a process that has loaded the slow modules already.

What runs is the program as `python -m MODULE` runs it, in a process of its own, with an environment, a log
and an exit of its own; only the seconds that loading torch and umap takes are spent once for all of them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# what takes long to load and starts no thread, which a fork would lose
SLOW = (
    "torch", "timm", "umap", "hdbscan", "duckdb", "confluent_kafka", "redis", "prometheus_client", "aiohttp",
    "worker.run", "imgclust.training.fit",
)  # fmt: skip
# begun with a library, else: numpy's threads, if it may have more than one, and the one of pyarrow's memory
ALONE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
LOOK_AGAIN = 0.01
# workers: librdkafka has crashed then
ENDS_IN_FULL = ("worker", "tests.support.quick_worker", "tests.faults.subject")
MOST_FILES = 8
SHARED = "IMGCLUST_PRELOADED"  # where programs that start programs find the process that forks them


class Preloaded:
    """A connection to the process that forks programs, which all processes of a test run have in common."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)
        self._answers = self._connection.makefile("rb")

    def ask(self, files: Sequence[int] = (), **question: Any) -> Any:
        with self._lock:
            socket.send_fds(self._connection, [json.dumps(question).encode() + b"\n"], files)
            return json.loads(self._answers.readline())


@functools.cache
def preloaded() -> Preloaded:
    return Preloaded(os.environ.get(SHARED) or served("preloaded"))


def served(name: str, *modules: str) -> str:
    """The address of one that all processes of a test run have in common, see `started`."""
    from tests.support import between  # pytest, which no program needs

    run = between.this_run()
    return run.until_its_end.enter_context(run.served(name, lambda: started(*modules)))


@contextlib.contextmanager
def started(*modules: str) -> Iterator[str]:
    """The address of a process that has loaded these modules, or all that take long.

    It runs until the end of its input, which comes when this process ends, however it does.
    """
    with tempfile.TemporaryDirectory(prefix="imgclust-preloaded-") as folder:
        address = f"{folder}/socket"
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, address, *modules], env=os.environ | ALONE,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield address


class Program:
    """`python -m MODULE ARGUMENTS`, started; as much of `subprocess.Popen` as tests use.

    Args:
        module: or the path of a script.
        log: stdout is added to this file, and stderr to `errors` or here.
        cwd: the folder that it starts in; this process's, when left out.
        server: what forks it.
        files: open files that it inherits; their numbers there are its last arguments.
    """

    def __init__(
        self, module: str, *arguments: str, env: Mapping[str, str], log: Path, errors: Path | None = None,
        cwd: Path | None = None, server: Preloaded | None = None, files: Sequence[int] = (),
    ) -> None:  # fmt: skip
        log.touch()
        self.returncode: int | None = None
        self._server = server or preloaded()
        self.pid: int = self._server.ask(
            files, module=module, arguments=arguments, env=dict(env), log=str(log), errors=str(errors or log),
            cwd=str(cwd or Path.cwd()),
        )  # fmt: skip

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask(pid=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended; the number of a signal, negative, when that ended it.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while self.poll() is None:
            if time.monotonic() > deadline:
                assert timeout is not None
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(LOOK_AGAIN)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    module: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory(prefix="imgclust-program-") as folder:
        log, errors = Path(folder) / "log", Path(folder) / "errors"
        program = Program(
            module, *arguments, env=os.environ if env is None else env, log=log, errors=errors, cwd=cwd
        )
        try:
            code = program.wait(timeout)
        finally:
            program.kill()
        return subprocess.CompletedProcess((module, *arguments), code, log.read_text(), errors.read_text())


def serve(address: str, modules: Sequence[str]) -> dict[str, Any]:
    """Answer questions until nobody is there; returns in each forked process, with what it is to run."""
    gc.disable()
    for name in modules or SLOW:
        with contextlib.suppress(ImportError):  # of an extra: who needs it says so
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    sockets = [socket.socket(socket.AF_UNIX)]
    sockets[0].bind(address)
    sockets[0].listen()
    os.write(1, b"ready\n")
    while True:
        readable, _, _ = select.select([0, *sockets], [], [])
        if 0 in readable:
            raise SystemExit
        for found in readable:
            if found is sockets[0]:
                sockets.append(found.accept()[0])
                continue
            line, files = _received(found)
            if not line:
                sockets.remove(found)
                found.close()
            elif (program := _answer(found, json.loads(line), files)) is not None:
                for each in sockets:
                    each.close()
                return program


def _received(client: socket.socket) -> tuple[bytes, list[int]]:
    """What it asks, empty when it is gone, and the files that come with that."""
    line, files = b"", []
    while not line.endswith(b"\n"):
        part, more, _, _ = socket.recv_fds(client, 1 << 16, MOST_FILES)
        if not part:
            return b"", []
        line += part
        files += more
    return line, files


def _answer(client: socket.socket, question: dict[str, Any], files: list[int]) -> dict[str, Any] | None:
    """Answer a question; None, but in a process that was forked what it is to run."""
    if "pid" in question:
        pid, status = os.waitpid(question["pid"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose a thread"
        answer = os.fork()
        if answer == 0:
            return {**question, "arguments": [*question["arguments"], *map(str, files)]}
        for file in files:
            os.close(file)
    client.sendall(json.dumps(answer).encode() + b"\n")
    return None


def become(module: str, arguments: list[str], env: dict[str, str], log: str, errors: str, cwd: str) -> None:
    """Run the program in this process, which Ctrl-C on the terminal does not reach."""
    os.setsid()
    for number, path in enumerate((os.devnull, log, errors)):
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    sys.path[0] = str(Path(module).parent) if module.endswith(".py") else cwd
    code: Any = 0
    try:
        if module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as asked:
        code = asked.code or 0
    if module in ENDS_IN_FULL or not isinstance(code, int):
        raise SystemExit(code)
    leave(code)


def leave(code: int) -> None:
    """End as Python does, but for taking apart all that was loaded: in a fork that costs half a second of a
    processor, ten times what a small command takes."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    become(**serve(sys.argv[1], sys.argv[2:]))
