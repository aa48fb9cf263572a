"""Fetcher processes that start at once: forked from one that has loaded all that they need, and nothing else.

A fetcher is what it always is, a process with a memory limit of its own; only its parent is another one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.preloaded import Preloaded, Program, served, started
from worker.fetching import connection

LOADED = ("worker.fetching.process", "imgclust.images.decode")
FORKING = "IMGCLUST_FORKED_FETCHERS"  # where a worker finds what forks them

server = functools.partial(started, *LOADED)


@functools.cache
def address() -> str:
    """Of the process that forks the fetchers of this test run."""
    return served("fetchers", *LOADED)


def use(forking: str) -> None:
    """From now on this process's fetchers are forked by the process at that address."""
    popen = functools.partial(Forked, server=Preloaded(forking))
    connection.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": popen})  # type: ignore[assignment]


@contextlib.contextmanager
def used() -> Iterator[None]:
    """In this block fetchers are forked."""
    use(address())
    try:
        yield
    finally:
        connection.subprocess = subprocess


class Forked(Program):
    """What `worker.fetching.connection` starts by `subprocess.Popen`."""

    def __init__(
        self, _: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str], server: Preloaded,
        **_others: Any,
    ) -> None:  # fmt: skip
        ours, theirs = os.pipe()
        self.stderr = os.fdopen(ours, "rb")
        super().__init__(
            __name__, str(os.getpid()), env=env, log=Path(os.devnull), server=server,
            files=[*pass_fds, theirs],
        )  # fmt: skip
        os.close(theirs)


def of(worker: int) -> list[int]:
    """The numbers of a worker's fetchers."""
    found = []
    for name in Path("/proc").glob("[0-9]*/comm"):
        try:
            if name.read_text().strip() == title(worker):
                found.append(int(name.parent.name))
        except OSError:  # it has ended
            continue
    return found


def title(worker: int) -> str:
    return f"of {worker}"


def fetch(parent: str, channel: str, ring: str, errors: str) -> None:
    """The life of a fetcher, from the fork on."""
    from worker.fetching import process

    os.dup2(int(errors), 2)
    os.close(int(errors))
    warnings.simplefilter("ignore")
    Path("/proc/self/comm").write_text(title(int(parent)))
    sys.argv[1:] = channel, ring
    process.main()


if __name__ == "__main__":
    fetch(*sys.argv[1:])
