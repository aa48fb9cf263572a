"""The worker with two parts swapped: pictures come from memory, and the encoder takes a fixed time.

    python -m benchmarks.bypass --call-ms 20        one worker; its settings come from the environment

Nothing is fetched and nothing is decoded, so what is left is delivery: Kafka in, order, batches, tags,
offsets, Kafka out. `worker.run.run` is the worker's own, with its signals, its drain and its metrics. An
upload whose URL names a host `slow-…` is answered after 5 seconds, as by a server that is slow.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fixed_encoder import FixedTimeEncoder, Unpredicted
from imgclust.types import Pixels, Preprocessing
from worker.fetching.protocol import Decoded, Job
from worker.fetching.shared_slots import SharedSlots

SLOW_SECONDS = 5.0
SLOW = "http://slow-"
PICTURES = 16  # different ones, in memory


class MemoryPool:
    """Stands where `worker.fetching.pool.FetcherPool` stands: fills slots from memory and answers at once.

    Its thread is called "bypass" in the system's list of threads, so that its time can be told apart.
    """

    alive, restarts, cancelling = 1, 0, 0

    def __init__(
        self,
        *,
        slots: int,
        preprocessing: Preprocessing,
        on_outcomes: Callable[[list[Any]], None],
        **_: Any,
    ) -> None:
        side = preprocessing.size
        self._ring = SharedSlots.create(slots, side, 1)
        self._pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, side, side, 3), np.uint8)
        self._on_outcomes = on_outcomes
        self._free = list(range(slots))
        self._slots = slots
        self._jobs: deque[list[Job]] = deque()
        self._released: deque[list[int]] = deque()
        self._unwanted: deque[set[int]] = deque()
        self._ready: deque[int] = deque()
        self._slow: list[tuple[float, int]] = []
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fetchers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, jobs: list[Job]) -> None:
        self._jobs.append(jobs)
        self._wake.set()

    def release(self, slots: list[int]) -> None:
        self._released.append(slots)
        self._wake.set()

    def forget(self, tokens: Iterable[int]) -> None:
        self._unwanted.append(set(tokens))

    @property
    def memory(self) -> Pixels:
        return self._ring.memory

    def pixels(self, slot: int) -> Pixels:
        return self._ring.pixels(slot)

    @property
    def slots_used(self) -> int:
        return self._slots - len(self._free)

    def stop(self, timeout: float) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        name = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
        with contextlib.suppress(OSError):  # not on Linux
            name.write_text("bypass")
        while not self._stopping:
            wait = self._slow[0][0] - time.monotonic() if self._slow else None
            if wait is None or wait > 0:
                self._wake.wait(wait)
            self._wake.clear()
            self._take_notes(time.monotonic())
            self._fill()

    def _take_notes(self, now: float) -> None:
        while self._jobs:
            for job in self._jobs.popleft():
                if job.url.startswith(SLOW):
                    heapq.heappush(self._slow, (now + SLOW_SECONDS, job.token))
                else:
                    self._ready.append(job.token)
        while self._released:
            self._free += self._released.popleft()
        while self._slow and self._slow[0][0] <= now:
            self._ready.append(heapq.heappop(self._slow)[1])
        while self._unwanted:
            gone = self._unwanted.popleft()
            self._ready = deque(token for token in self._ready if token not in gone)
            self._slow = [entry for entry in self._slow if entry[1] not in gone]
            heapq.heapify(self._slow)

    def _fill(self) -> None:
        outcomes = []
        while self._ready and self._free:
            token, slot = self._ready.popleft(), self._free.pop()
            self._ring.pixels(slot)[:] = self._pictures[token % PICTURES]
            outcomes.append(Decoded(token, slot, 640, 427, 50_000, 0.0, 0.0))
        if outcomes:
            self._on_outcomes(outcomes)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--call-ms", type=float, default=20.0, help="of the encoder, for up to 64 images")
    parser.add_argument("--predict", action="store_true", help='with the model, and not "other" for all')
    arguments = parser.parse_args()

    from imgclust.model.model import ClusterModel
    from worker import run
    from worker.settings import load as all_settings
    from worker.tagger import tagger
    from worker.telemetry import log as logs

    logs.configure("text")
    settings = all_settings.load()
    assert settings.model is not None
    model = ClusterModel.load(settings.model)
    assert model.encoder is not None
    encoder = FixedTimeEncoder(model.encoder, model.arrays["embeddings"], arguments.call_ms / 1000)
    swapped: Any = tagger
    swapped.FetcherPool = MemoryPool
    starting: Any = run
    starting.load = lambda _: (model if arguments.predict else Unpredicted(model), encoder)
    return run.run(settings, view=False)


if __name__ == "__main__":
    sys.exit(main())
