"""A predictor's threads, which a forked process has to start anew."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from imgclust.support.forks import one_thread_after_a_fork

_T = TypeVar("_T")


class Threads:
    """Threads in which torch starts no threads of its own; they start with the first call.

    A fork copies the thread that calls it and no other: a pool made before would wait for ever in the child,
    and so would a lock that another thread held. So the child gets both anew.

    Attributes:
        count: of threads.
        lock: for what they share.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.renew()
        _ALL.add(self)
        one_thread_after_a_fork()

    def renew(self) -> None:
        """Forget the threads of the process that this one was forked from."""
        self.lock = threading.Lock()
        self._starting = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def pool(self) -> ThreadPoolExecutor:
        with self._starting:
            if self._pool is None:
                self._pool = _started(self.count)
            return self._pool

    def run(self, call: Callable[[], _T]) -> _T:
        """Call in one of the threads."""
        return self.pool.submit(call).result()


def _started(count: int) -> ThreadPoolExecutor:
    """Threads in which torch starts no threads of its own.

    Torch divides each small operation among OpenMP threads that spin while they wait for each other: on a
    busy machine that multiplies the time. Here each thread has its own rows instead. The number of OpenMP
    threads is a property of the calling thread; what new threads of others get is put back.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "imgclust-predict", initializer=torch.set_num_threads, initargs=(1,))
    started = threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(before)
    return pool


_ALL: weakref.WeakSet[Threads] = weakref.WeakSet()


def _renew_all() -> None:
    for threads in list(_ALL):
        threads.renew()


os.register_at_fork(after_in_child=_renew_all)
