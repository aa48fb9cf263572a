"""The pool of fetcher processes: URLs in, decoded pictures in shared memory out.

    submit ─► queue ─► the least loaded fetcher ─► fetch ─► decode ─► slot ─► on_outcomes ─► … ─► release
                            └─ dies or hangs: replaced; what it held is tried again (`quarantine`)

One thread owns every socket and process; the methods that other threads call leave a request and wake it. A
fetcher is not trusted: an outcome counts only for a job that it holds and a slot that is its own and free,
and neither a silent nor a flooding fetcher can make this thread wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from imgclust.fetching.urls import FetchPolicy
from imgclust.support import confined
from imgclust.types import Pixels, Preprocessing
from worker.errors import WorkerError
from worker.fetching.fair_queue import FairQueue, host_of
from worker.fetching.fetcher_state import HEARTBEAT_TIMEOUT, FetcherState
from worker.fetching.protocol import BODIES, Failed, FetchOutcome, Job, is_text
from worker.fetching.quarantine import Quarantine
from worker.fetching.shared_slots import SharedSlots, share
from worker.fetching.supervisor import Supervisor
from worker.telemetry import log as logs

log = logs.get(__name__)

# A fetcher is given twice what it can fetch at once: it never waits for the next message, and one that dies
# holds little.
WINDOW = 2
# Messages cost more than what is in them: jobs go out when a quarter of the window is free.
REFILL = 1 / 4
DECODE = "imgclust.images.decode:decode"

_GIVEN_UP = "the process that had this image died or hung, and did so again with nothing else in it"
_NO_TEXT = "the URL contains a lone surrogate, which no URL can"


def memory_needed(max_pixels: int, max_bytes: int) -> int:
    """Bytes of private memory that a fetcher may take."""
    return confined.memory_needed(max_pixels, max(BODIES, max_bytes))


class FetcherPool:
    """Fetches and decodes in `processes` processes.

    Args:
        processes: at least 1.
        slots: decoded pictures held at once, at least one per process.
        preprocessing: of the encoder.
        policy: what may be fetched.
        on_outcomes: is called from the pool's thread with many outcomes at a time; must not wait.
        connections: downloads at once in each process.
        max_pixels: width × height of an image at most.
        decode_timeout: seconds for one image, after which its process is replaced.
        memory_limit: bytes of private memory of each process; by default what `max_pixels` and the policy's
            `max_bytes` need, 1.5 GiB for 50 million pixels.
        clock: monotonic seconds.
        decode: dotted name of the decoder; tests put a crashing one here.

    Raises:
        StartError: there is no memory for the slots.
    """

    def __init__(
        self,
        *,
        processes: int,
        slots: int,
        preprocessing: Preprocessing,
        policy: FetchPolicy,
        on_outcomes: Callable[[list[FetchOutcome]], None],
        connections: int = 64,
        max_pixels: int = 50_000_000,
        decode_timeout: float = 30.0,
        memory_limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        decode: str = DECODE,
    ) -> None:
        if not 1 <= processes <= slots:
            raise ValueError(f"need 1 or more processes and a slot for each, got {processes} and {slots}")
        self._on_outcomes, self._clock = on_outcomes, clock
        config: dict[str, Any] = {
            "processes": processes,
            "slots": slots,
            "connections": connections,
            "max_pixels": max_pixels,
            "memory_limit": memory_limit or memory_needed(max_pixels, policy.max_bytes),
            "orphan_timeout": HEARTBEAT_TIMEOUT + 2 * decode_timeout,
            "decode": decode,
            "preprocessing": dataclasses.asdict(preprocessing),
            "policy": policy.to_json(),
        }
        self._window = WINDOW * connections
        self._ring = SharedSlots.create(slots, preprocessing.size, processes)
        self._bystanders: Counter[int] = Counter()
        self._fetchers = [
            FetcherState(i, share(slots, processes, i), Quarantine(self._bystanders))
            for i in range(processes)
        ]
        self._owner = [fetcher for fetcher in self._fetchers for _ in fetcher.slots]
        # A host may hold what it can use (its share of downloads in each fetcher) and two thirds more, which
        # wait there; were it more, a dead host would fill the windows, and the others would wait behind it.
        self._queue: FairQueue[Job] = FairQueue(processes * max(1, policy.host_share(connections) * 5 // 3))
        self._outcomes: list[FetchOutcome] = []
        self._broken: Exception | None = None
        self._stopping: float | None = None  # seconds that the fetchers have to end
        # requests of other threads
        self._submitted: deque[list[Job]] = deque()
        self._released: deque[list[int]] = deque()
        self._unwanted: deque[set[int]] = deque()
        self._woken = threading.Event()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._supervisor = Supervisor(
            self._fetchers,
            self._ring,
            self._selector,
            config,
            # credentials of the object store, only where one may be read
            environment="AWS_" if policy.allow_buckets else "",
            decode_timeout=decode_timeout,
            on_report=self._end_jobs,
            on_lost=self._recover,
            clock=clock,
        )
        self._thread = threading.Thread(target=self._run, name="fetchers", daemon=True)

    # ── for every thread ─────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the processes; returns at once, jobs wait until one is ready."""
        self._thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """Fetch these; each ends in one outcome, unless it is forgotten or the pool is stopped.

        Raises:
            WorkerError: the pool's thread broke, and there will be no outcomes any more.
        """
        if self._broken is not None:
            raise WorkerError(f"the pool of fetchers broke: {self._broken!r}")
        self._submitted.append(jobs)
        self._wake()

    def release(self, slots: list[int]) -> None:
        """These pictures have been read; their slots may be filled again."""
        self._released.append(slots)
        self._wake()

    def forget(self, tokens: Iterable[int]) -> None:
        """Nobody wants these any more; outcomes that are not on their way yet will not come."""
        self._unwanted.append(set(tokens))
        self._wake()

    @property
    def memory(self) -> Pixels:
        """All slots: uint8 (slots, size, size, 3)."""
        return self._ring.memory

    def pixels(self, slot: int) -> Pixels:
        """The picture in a slot: uint8 (size, size, 3), a view that is valid until the slot is released."""
        return self._ring.pixels(slot)

    @property
    def alive(self) -> int:
        """Processes that are ready to work."""
        return sum(fetcher.ready for fetcher in self._fetchers)

    @property
    def restarts(self) -> int:
        """Processes that were lost."""
        return self._supervisor.restarts

    @property
    def cancelling(self) -> int:
        """Jobs that were forgotten and have not ended yet: they hold a connection or a decoder."""
        return sum(fetcher.cancelling for fetcher in self._fetchers)

    @property
    def slots_used(self) -> int:
        """Slots with a decoded picture that was not released yet."""
        return sum(len(fetcher.lent) for fetcher in self._fetchers)

    @property
    def pids(self) -> list[int]:
        """The fetcher processes that run, ready or not."""
        return [fetcher.link.process.pid for fetcher in self._fetchers if fetcher.link is not None]

    def stop(self, timeout: float) -> None:
        """End the processes; what they hold is dropped.

        Args:
            timeout: seconds, after which they are killed.
        """
        if self._stopping is None:
            self._stopping = timeout
            if self._thread.ident is None:
                self._close()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout + 5)

    def _wake(self) -> None:
        if not self._woken.is_set() and threading.get_ident() != self._thread.ident:
            self._woken.set()
            with contextlib.suppress(OSError):  # full: it is awake; closed: it has stopped
                self._wake_in.send(b"\0")

    # ── the pool's thread ────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            while self._stopping is None:
                self._turn()
        except Exception as error:
            log.exception("the pool of fetchers broke")
            self._broken = error
        finally:
            self._supervisor.end_all(self._stopping or 0.0)
            self._close()

    def _turn(self) -> None:
        now = self._clock()
        if now >= self._supervisor.check_at:
            self._supervisor.check(now)
        requested = self._submitted or self._released or self._unwanted
        patience = 0.0 if requested else max(0.0, self._supervisor.check_at - now)
        for key, events in self._selector.select(patience):
            if key.data is None:
                self._wake_out.recv(4096)
                self._woken.clear()
            else:
                self._supervisor.exchange(key.data, events)
        self._take_requests()
        self._dispatch()
        self._send_messages()
        self._deliver()

    def _take_requests(self) -> None:
        while self._submitted:
            for job in self._submitted.popleft():
                if job.url.isascii() or is_text(job.url):
                    self._queue.put(host_of(job.url), job)
                else:
                    self._outcomes.append(Failed(job.token, "url-forbidden", "fetch", _NO_TEXT, False, None))
        while self._released:
            for slot in self._released.popleft():
                self._owner[slot].slot_released(slot)
        while self._unwanted:
            self._drop(self._unwanted.popleft())

    def _drop(self, tokens: set[int]) -> None:
        self._queue.drop(lambda job: job.token in tokens)
        for fetcher in self._fetchers:
            fetcher.forget(tokens)
        for token in tokens if self._bystanders else ():
            self._bystanders.pop(token, None)

    def _dispatch(self) -> None:
        for fetcher in self._fetchers:
            if fetcher.ready and not fetcher.held:
                for job in fetcher.quarantine.next_group():
                    self._queue.claim(host_of(job.url))
                    fetcher.assign(job)
        if not self._queue:
            return
        low = min(self._window - 1, int(self._window * (1 - REFILL)))
        free = [f for f in self._fetchers if f.ready and not f.quarantine.trying and len(f.held) <= low]
        while free and (taken := self._queue.take()) is not None:
            fetcher = min(free, key=lambda fetcher: len(fetcher.held))
            fetcher.assign(taken[1])
            if len(fetcher.held) >= self._window:
                free.remove(fetcher)

    def _send_messages(self) -> None:
        for fetcher in self._fetchers:
            if fetcher.link is not None and fetcher.ready and (message := fetcher.next_message()) is not None:
                fetcher.link.put(message)
                self._supervisor.exchange(fetcher, selectors.EVENT_WRITE)

    def _deliver(self) -> None:
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._on_outcomes(outcomes)

    def _end_jobs(self, ended: list[Job], outcomes: list[FetchOutcome]) -> None:
        for job in ended:
            self._queue.done(host_of(job.url))
            if self._bystanders:
                self._bystanders.pop(job.token, None)
        self._outcomes += outcomes

    def _recover(self, held: list[Job], again: list[Job], given_up: list[Job]) -> None:
        """A process is gone: what it held is tried again, or has failed."""
        for job in held:
            self._queue.done(host_of(job.url))
        for job in reversed(again):
            self._queue.put_first(host_of(job.url), job)
        for job in given_up:
            self._outcomes.append(Failed(job.token, "decode-failed", "decode", _GIVEN_UP, False, None))
            self._bystanders.pop(job.token, None)

    def _close(self) -> None:
        self._selector.close()
        self._wake_out.close()
        self._wake_in.close()
        self._ring.close()
