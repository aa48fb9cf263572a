"""Python programs that start at once: forked from a process that has loaded the slow modules already.

What runs is the program as `python -m MODULE` runs it, in a process of its own, with an environment, a log
and an exit of its own; only the seconds that loading torch takes are spent once for all of them.
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
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# what takes long to load and starts no thread, which a fork would lose
SLOW = ("torch", "timm", "confluent_kafka", "redis", "prometheus_client", "aiohttp")
LOOK_AGAIN = 0.01


class Preloaded:
    """The process that forks programs; it ends with this one."""

    def __init__(self) -> None:
        # numpy's library begins threads when it is loaded, if it may have more than one
        alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], env=os.environ | alone,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._lock = threading.Lock()
        atexit.register(self._process.kill)

    def ask(self, **question: Any) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


@functools.cache
def preloaded() -> Preloaded:
    return Preloaded()


class Program:
    """`python -m MODULE ARGUMENTS`, started; as much of `subprocess.Popen` as tests use.

    Args:
        log: stdout is added to this file, and stderr to `errors` or here.
        cwd: the folder that it starts in; this process's, when left out.
    """

    def __init__(
        self, module: str, *arguments: str, env: Mapping[str, str], log: Path, errors: Path | None = None,
        cwd: Path | None = None,
    ) -> None:  # fmt: skip
        log.touch()
        self.returncode: int | None = None
        self.pid: int = preloaded().ask(
            module=module, arguments=arguments, env=dict(env), log=str(log), errors=str(errors or log),
            cwd=str(cwd or Path.cwd()),
        )  # fmt: skip

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = preloaded().ask(pid=self.pid)
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


def serve() -> dict[str, Any]:
    """Answer questions until there are no more; returns in each forked process, with what it is to run."""
    for name in SLOW:
        with contextlib.suppress(ImportError):  # of an extra: who needs it says so
            importlib.import_module(name)
    gc.freeze()
    with open(0, "rb", buffering=0, closefd=False) as questions:
        while question := json.loads(questions.readline() or "null"):
            if "pid" in question:
                pid, status = os.waitpid(question["pid"], os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if pid else None
            else:
                assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose a thread"
                answer = os.fork()
                if answer == 0:
                    return dict(question)
            os.write(1, json.dumps(answer).encode() + b"\n")
    raise SystemExit


def become(module: str, arguments: list[str], env: dict[str, str], log: str, errors: str, cwd: str) -> None:
    """Run the program in this process."""
    for number, path in enumerate((os.devnull, log, errors)):
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[0] = cwd
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    become(**serve())
