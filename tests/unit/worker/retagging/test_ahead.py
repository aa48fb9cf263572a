"""Work in a thread of its own, a little ahead."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from worker.retagging.ahead import AHEAD, ahead, chunks


def test_the_same_items_in_the_same_order() -> None:
    """Through two threads, one after the other."""
    assert list(ahead(ahead(n for n in range(100)))) == list(range(100))


def test_an_error_comes_after_the_items_before_it() -> None:
    """As it would without a thread."""

    def failing() -> Generator[int]:
        yield 1
        raise ValueError("broken")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_closing_it_closes_the_source_before_it_returns() -> None:
    """So that whoever reads the same source next is alone with it; and no more was read than may wait."""
    read: list[int] = []
    closed = threading.Event()

    def source() -> Generator[int]:
        try:
            for n in range(1000):
                read.append(n)
                yield n
        finally:
            closed.set()

    batches = ahead(chunks(source(), 2))
    assert next(batches) == [0, 1]
    batches.close()
    assert closed.is_set()
    assert len(read) <= 2 * (AHEAD + 3)
