"""What the processes of one test run have in common: whoever needs it first makes it, the others use it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest
from filelock import FileLock

LOOK_AGAIN = 0.1
_this_run: list[Between] = []


def begin(factory: pytest.TempPathFactory) -> None:
    """Before the first test: whether xdist has divided the run or not."""
    base = factory.getbasetemp()
    _this_run[:] = [Between(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)]


def end() -> None:
    """After the last test."""
    this_run().until_its_end.close()


def this_run() -> Between:
    (found,) = _this_run
    return found


class Between:
    """A folder that all processes of a run see.

    Args:
        folder: it is there, and gone after the run or kept by pytest.

    Attributes:
        until_its_end: what this process leaves after its last test.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.until_its_end = contextlib.ExitStack()

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """What `make` writes to the path that it is given; it does so once in a run.

        Returns:
            Where it lies; nobody may change it.
        """
        target = self._folder / name
        with FileLock(f"{target}.lock"):
            if not target.exists():
                part = self._folder / f"{name}.part"
                shutil.rmtree(part, ignore_errors=True)
                make(part)
                part.rename(target)
        return target

    @contextlib.contextmanager
    def served(self, name: str, start: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
        """The address of a server that runs once: whoever comes first starts it, and waits at the end for the
        others. One that crashed is not waited for: the system takes its lock."""
        address, lock = self._folder / f"{name}.address", FileLock(self._folder / f"{name}.lock")
        with (self._folder / f"{name}.users").open("a") as users, contextlib.ExitStack() as stack:
            with lock:
                if not address.exists():
                    address.write_text(stack.enter_context(start()))
                    stack.callback(_leave_last, lock, users, address)
                fcntl.flock(users, fcntl.LOCK_SH)
            yield address.read_text()


def _leave_last(lock: FileLock, users: IO[str], address: Path) -> None:
    """Wait until nobody else uses it; who comes later finds no address."""
    while True:
        with lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            address.unlink()
            return
        time.sleep(LOOK_AGAIN)
