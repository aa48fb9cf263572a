"""An iterator that is worked through by a thread of its own, a little ahead of whoever uses it."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
AHEAD = 2  # items that wait


def chunks(items: Generator[T], size: int) -> Generator[list[T]]:
    """Lists of `size` items, the last one of what is left; closes them."""
    with contextlib.closing(items):
        while chunk := list(itertools.islice(items, size)):
            yield chunk


def ahead(items: Generator[T]) -> Generator[T]:
    """The same items, and the same error at their end; closing it closes them, in their thread."""
    ready: queue.Queue[T | _Ended] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def put(item: T | _Ended) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return

    def read() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    if stop.is_set():
                        return
                    put(item)
            put(_Ended(None))
        except BaseException as error:
            put(_Ended(error))

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _Ended):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()  # nobody else reads what it reads before it has left


class _Ended:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error
