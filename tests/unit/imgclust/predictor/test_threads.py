"""Predictions in other processes: those that are forked from one that has predicted already among them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import pytest
import torch

from imgclust.predictor.predictor import FrozenPredictor
from imgclust.predictor.threads import Threads
from tests.support.frozen_pair import embeddings, frozen_pair

SECONDS = 60
ROWS = embeddings(96, 24, 5, seed=0)[0]


def predictor(compiled: bool) -> FrozenPredictor:
    """With two threads, which a batch of 96 is divided among; in C, where it was built, or in numpy."""
    made = FrozenPredictor(*frozen_pair(), threads=2)
    if not compiled:
        made._kernels = None
    return made


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def points_of(one: FrozenPredictor) -> bytes:
    return one.predict(ROWS).points.tobytes() + one.predict(ROWS[:1]).points.tobytes()


def send_points(one: FrozenPredictor, answers: Connection) -> None:
    answers.send_bytes(points_of(one))


def in_threads(one: FrozenPredictor, answers: Connection) -> None:
    """As a server's threads do, all of which come first."""
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(points_of(one))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.send_bytes(found[0] if len(set(found)) == 1 and len(found) == 4 else b"".join(found))


def forked(target: Callable[[FrozenPredictor, Connection], None], one: FrozenPredictor) -> bytes:
    """What a forked child sends."""
    here, there = get_context("fork").Pipe()
    process = get_context("fork").Process(target=target, args=(one, there))
    process.start()
    try:
        assert here.poll(SECONDS), "the forked child hangs"
        return here.recv_bytes()
    finally:
        process.kill()
        process.join()


def in_grandchild(one: FrozenPredictor, answers: Connection) -> None:
    points_of(one)
    answers.send_bytes(forked(send_points, one))


@pytest.mark.parametrize("target", [send_points, in_threads, in_grandchild])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_forked_child_predicts_what_its_parent_does(
    target: Callable[[FrozenPredictor, Connection], None], compiled: bool
) -> None:
    """After predictions in the parent, as where a server loads the model first and forks its workers then."""
    one = predictor(compiled)
    with torch_threads(2):
        expected = points_of(one)
        assert forked(target, one) == expected
        assert points_of(one) == expected


def test_a_fork_in_the_middle_of_predictions() -> None:
    """Other threads of the parent predict while it forks: what they hold is free in the child."""
    one = predictor(compiled=True)
    expected = points_of(one)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            one.predict(ROWS)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with one._threads.lock:  # as another thread may hold it at that moment
            pass
        assert all(forked(send_points, one) == expected for _ in range(3))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_lock_that_is_held_at_the_fork_is_free_in_the_child() -> None:
    one = predictor(compiled=True)
    expected = points_of(one)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with one._threads.lock, one._threads._starting:
            held.set()
            done.wait(SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(SECONDS)
    try:
        assert forked(send_points, one) == expected
    finally:
        done.set()
        thread.join()


def test_threads_are_those_of_this_process() -> None:
    """Started once, by the first call."""
    threads = Threads(2)
    assert threads.run(os.getpid) == os.getpid()
    assert threads.pool is threads.pool
