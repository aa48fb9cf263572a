"""The pool of fetcher processes: URLs in, decoded pictures in shared memory out.

    submit ─► queue ─► the least loaded fetcher ─► fetch ─► decode ─► slot ─► on_outcomes ─► … ─► release
                            └─ dies or hangs: replaced; what it held is tried again (worker.suspects)

One thread owns every socket and process; the methods that others call put a note into its inbox and wake it.
A fetcher decodes what strangers send, so nothing that it says is believed unchecked: an outcome counts only
for a job that it holds and a slot that is its own and free, and neither a silent nor a flooding fetcher can
make this thread wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from imgclust.types import Pixels, Preprocessing
from imgclust.urls import FetchPolicy  # not from imgclust.fetch: the parent needs no HTTP client
from worker import log as logs
from worker.errors import WorkerError
from worker.messages import ERROR_CODES
from worker.slots import SlotRing, share

log = logs.get(__name__)

TICK = 0.25  # seconds between two looks at marks, heartbeats and dead processes
HEARTBEAT_TIMEOUT = 30.0  # seconds; the event loop of a fetcher turns every 0.5 s
# A fetcher is given twice what it can fetch at once: it never waits for the next message, and one that dies
# holds little.
WINDOW = 2
MAX_LINE = 4 * 1024 * 1024  # of a fetcher: a window of failures of 400 characters is far less
RECEIVE = 256 * 1024
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0
# About 100 MB to begin with, bodies of 128 MiB, a picture of 50 million pixels in RGBA with a few copies
MEMORY_LIMIT = 1536 * 1024 * 1024
DECODE = "imgclust.decode:decode"

_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH",
                "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "RES_OPTIONS")  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """An image to fetch and decode; `token` names this try and is more than 0."""

    token: int
    url: str


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A picture lies in `slot`; whoever has read it calls `release`.

    Attributes:
        width, height: of the original, in pixels.
        nbytes: of the file.
    """

    token: int
    slot: int
    width: int
    height: int
    nbytes: int
    fetch_seconds: float
    decode_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """No picture could be had.

    Attributes:
        code: an error code of the wire contract.
        stage: "fetch" or "decode".
        transient: whether the same URL may succeed later.
        retry_after: seconds that the server asked to wait.
    """

    token: int
    code: str
    stage: str
    message: str
    transient: bool
    retry_after: float | None


Outcome = Decoded | Failed


class ProtocolError(Exception):
    """A fetcher said what an honest one cannot say."""


@dataclasses.dataclass(slots=True, eq=False)
class _Member:
    """A place in the pool: one fetcher process after another."""

    index: int
    slots: range
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    ready: bool = False
    proven: bool = False  # has brought an outcome
    deaths: int = 0  # since one was proven
    start_at: float = 0.0
    inbox: bytearray = dataclasses.field(default_factory=bytearray)
    outbox: bytearray = dataclasses.field(default_factory=bytearray)
    jobs: list[Job] = dataclasses.field(default_factory=list)  # to be told in the next message
    credit: list[int] = dataclasses.field(default_factory=list)
    forget: list[int] = dataclasses.field(default_factory=list)
    held: dict[int, Job] = dataclasses.field(default_factory=dict)
    forgotten: set[int] = dataclasses.field(default_factory=set)
    lent: set[int] = dataclasses.field(default_factory=set)  # slots that the consumer has not released
    suspects: deque[list[Job]] = dataclasses.field(default_factory=deque)  # groups to try with nothing beside
    alone: list[Job] = dataclasses.field(default_factory=list)  # the group being tried
    mark: int = 0
    marked_at: float = 0.0
    beats: int = -1
    beat_at: float = 0.0


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
        memory_limit: bytes of private memory of each process.
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
        on_outcomes: Callable[[list[Outcome]], None],
        connections: int = 64,
        max_pixels: int = 50_000_000,
        decode_timeout: float = 30.0,
        memory_limit: int = MEMORY_LIMIT,
        clock: Callable[[], float] = time.monotonic,
        decode: str = DECODE,
    ) -> None:
        if not 1 <= processes <= slots:
            raise ValueError(f"need 1 or more processes and a slot for each, got {processes} and {slots}")
        self._preprocessing, self._policy = preprocessing, policy
        self._on_outcomes, self._clock = on_outcomes, clock
        self._connections, self._decode_timeout = connections, decode_timeout
        self._max_pixels, self._memory_limit, self._decode = max_pixels, memory_limit, decode
        self._ring = SlotRing.create(slots, preprocessing.size, processes)
        self._members = [_Member(i, share(slots, processes, i)) for i in range(processes)]
        self._owner = [m for m in self._members for _ in m.slots]
        self._window = WINDOW * connections
        self._queue: deque[Job] = deque()
        self._outcomes: list[Outcome] = []
        self._dying: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._submitted: deque[list[Job]] = deque()
        self._released: deque[list[int]] = deque()
        self._forgotten: deque[set[int]] = deque()
        self._woken = threading.Event()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._stopping: float | None = None  # seconds that the fetchers have to end
        self._tick_at = 0.0
        self._thread = threading.Thread(target=self._run, name="fetchers", daemon=True)
        self._broken: Exception | None = None
        self.restarts = 0

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
        self._forgotten.append(set(tokens))
        self._wake()

    def pixels(self, slot: int) -> Pixels:
        """The picture in a slot: uint8 (size, size, 3), a view that is valid until the slot is released."""
        return self._ring.pixels(slot)

    @property
    def alive(self) -> int:
        """Processes that are ready to work."""
        return sum(member.ready for member in self._members)

    def stop(self, timeout: float) -> None:
        """End the processes; what they hold is dropped.

        Args:
            timeout: seconds, after which they are killed.
        """
        if self._stopping is None:
            self._stopping = timeout
            self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout + 5)
        elif self._thread.ident is None:
            self._close()

    def _wake(self) -> None:
        if not self._woken.is_set():
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
            self._end_all(self._stopping or 0.0)
            self._close()

    def _turn(self) -> None:
        now = self._clock()
        if now >= self._tick_at:
            self._tick_at = now + TICK
            self._tick(now)
        for key, events in self._selector.select(max(0.0, self._tick_at - now)):
            if key.data is None:
                self._wake_out.recv(4096)
                self._woken.clear()
            else:
                if events & selectors.EVENT_READ:
                    self._receive(key.data)
                if events & selectors.EVENT_WRITE and key.data.channel is not None:
                    self._send(key.data)
        self._take_notes()
        self._dispatch()
        self._tell()
        self._deliver()

    def _take_notes(self) -> None:
        while self._submitted:
            for job in self._submitted.popleft():
                if _is_text(job.url):
                    self._queue.append(job)
                else:
                    message = "the URL contains a lone surrogate, which no URL can"
                    self._outcomes.append(Failed(job.token, "url-forbidden", "fetch", message, False, None))
        while self._released:
            for slot in self._released.popleft():
                member = self._owner[slot]
                if slot in member.lent:
                    member.lent.remove(slot)
                    member.credit.append(slot)
        while self._forgotten:
            self._drop(self._forgotten.popleft())

    def _drop(self, tokens: set[int]) -> None:
        self._queue = deque(job for job in self._queue if job.token not in tokens)
        for member in self._members:
            told = tokens & member.held.keys()
            member.forgotten |= told
            member.forget.extend(told)
            for i, group in enumerate(member.suspects):
                member.suspects[i] = [job for job in group if job.token not in tokens]

    def _dispatch(self) -> None:
        for member in self._members:
            if member.ready and not member.held:
                self._try_alone(member)
        free = [m for m in self._members if m.ready and not m.alone and len(m.held) < self._window]
        while self._queue and free:
            member = min(free, key=lambda m: len(m.held))
            self._give(member, self._queue.popleft())
            if len(member.held) >= self._window:
                free.remove(member)

    def _try_alone(self, member: _Member) -> None:
        """The next group of suspects, with nothing else in the process until all of it has ended."""
        member.alone = []
        while member.suspects and not member.alone:
            member.alone = member.suspects.popleft()
        for job in member.alone:
            self._give(member, job)

    def _give(self, member: _Member, job: Job) -> None:
        member.held[job.token] = job
        member.jobs.append(job)

    def _tell(self) -> None:
        for member in self._members:
            if member.ready and (member.jobs or member.credit or member.forget):
                message: dict[str, Any] = {}
                if member.jobs:
                    message["jobs"] = [(job.token, job.url) for job in member.jobs]
                if member.credit:
                    message["release"] = member.credit
                if member.forget:
                    message["forget"] = member.forget
                member.outbox += orjson.dumps(message) + b"\n"
                member.jobs, member.credit, member.forget = [], [], []
                self._send(member)

    def _deliver(self) -> None:
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            try:
                self._on_outcomes(outcomes)
            except Exception:
                log.exception("outcomes were not taken", outcomes=len(outcomes))

    # ── sockets ──────────────────────────────────────────────────────────────────────────────────────────

    def _send(self, member: _Member) -> None:
        """As much as the socket takes; the rest when it has room again."""
        assert member.channel is not None
        try:
            sent = member.channel.send(member.outbox)
            del member.outbox[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._lose(member, "its socket is closed")
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.outbox else 0)
        if self._selector.get_key(member.channel).events != events:
            self._selector.modify(member.channel, events, member)

    def _receive(self, member: _Member) -> None:
        assert member.channel is not None
        try:
            data = member.channel.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(member, "it died")
            return
        member.inbox += data
        try:
            *lines, rest = member.inbox.split(b"\n")
            member.inbox = rest
            for line in lines:
                self._understand(member, orjson.loads(line))
            if len(member.inbox) > MAX_LINE:
                raise ProtocolError("a message without end")
        except (ProtocolError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._lose(member, f"it talks nonsense ({type(error).__name__}: {str(error)[:100]!a})")

    def _understand(self, member: _Member, message: Any) -> None:
        if "ready" in message:
            member.ready = True
            return
        for raw in message["decoded"]:
            outcome = _decoded(raw)
            if outcome.slot not in member.slots or outcome.slot in member.lent:
                raise ProtocolError("a slot that is not its own")
            member.lent.add(outcome.slot)
            if not self._over(member, outcome.token):
                member.lent.remove(outcome.slot)
                member.credit.append(outcome.slot)
                continue
            self._outcomes.append(outcome)
        for raw in message["failed"]:
            failure = _failed(raw)
            if self._over(member, failure.token):
                self._outcomes.append(failure)

    def _over(self, member: _Member, token: int) -> bool:
        """A job has ended; whether anybody still wants to know."""
        if member.held.pop(token, None) is None:
            raise ProtocolError("a job that it does not hold")
        member.proven, member.deaths = True, 0
        if token in member.forgotten:
            member.forgotten.remove(token)
            return False
        return True

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────

    def _tick(self, now: float) -> None:
        for member in self._members:
            if member.process is None:
                if now >= member.start_at:
                    self._start(member, now)
                continue
            mark, beats = self._ring.marked(member.index), self._ring.beats(member.index)
            if mark != member.mark:
                member.mark, member.marked_at = mark, now
            if beats != member.beats:
                member.beats, member.beat_at = beats, now
            if mark and now - member.marked_at > self._decode_timeout:
                self._lose(member, f"it decoded one image for more than {self._decode_timeout:g} s")
            elif now - member.beat_at > HEARTBEAT_TIMEOUT + self._decode_timeout:
                self._lose(member, "it gave no sign of life")
        self._dying = [process for process in self._dying if process.poll() is None]

    def _start(self, member: _Member, now: float) -> None:
        ours, theirs = socket.socketpair()
        self._ring.mark(member.index, 0)
        member.mark, member.beats, member.beat_at = 0, self._ring.beats(member.index), now
        member.proven = False
        with theirs:
            try:
                member.process = subprocess.Popen(  # noqa: S603 — our own interpreter, our own module
                    [sys.executable, "-P", "-W", "ignore", "-m", "worker.fetcher_process",
                     str(theirs.fileno()), str(self._ring.file)],
                    pass_fds=(theirs.fileno(), self._ring.file),
                    stdin=subprocess.DEVNULL,
                    env=child_environment(),
                    process_group=0,
                )  # fmt: skip
            except OSError as error:
                ours.close()
                self._schedule(member, f"it cannot be started: {error.strerror}")
                return
        ours.setblocking(False)
        member.channel = ours
        member.inbox, member.outbox = bytearray(), bytearray(self._config(member))
        self._selector.register(ours, selectors.EVENT_READ, member)
        self._send(member)

    def _config(self, member: _Member) -> bytes:
        member.credit.clear()
        config = {
            "index": member.index,
            "processes": self._ring.processes,
            "slots": self._ring.slots,
            "free": [slot for slot in member.slots if slot not in member.lent],
            "connections": self._connections,
            "max_pixels": self._max_pixels,
            "memory_limit": self._memory_limit,
            "orphan_timeout": HEARTBEAT_TIMEOUT + 2 * self._decode_timeout,
            "decode": self._decode,
            "preprocessing": dataclasses.asdict(self._preprocessing),
            "policy": self._policy.to_json(),
        }
        return orjson.dumps(config) + b"\n"

    def _lose(self, member: _Member, why: str) -> None:
        """A process is gone, or has to be: what it held is tried again, and it is replaced."""
        if member.process is None:
            return
        member.process.kill()
        self._dying.append(member.process)
        if member.channel is not None:
            self._selector.unregister(member.channel)
            member.channel.close()
        member.process = member.channel = None
        self._sort_out(member, self._ring.marked(member.index))
        self.restarts += 1
        self._schedule(member, why)

    def _schedule(self, member: _Member, why: str) -> None:
        was_ready, member.ready = member.ready, False
        member.deaths += 1
        wait = 0.0 if member.deaths == 1 else min(FIRST_BACKOFF * 2 ** (member.deaths - 2), MAX_BACKOFF)
        member.start_at = self._clock() + wait
        self._tick_at = min(self._tick_at, member.start_at)
        say = log.warning if was_ready and member.deaths == 1 else log.error
        say(
            "a fetcher process is replaced" if was_ready else "a fetcher process does not start",
            fetcher=member.index, why=why, deaths=member.deaths, seconds=wait,
            images_tried_again=sum(map(len, member.suspects)),
        )  # fmt: skip

    def _sort_out(self, member: _Member, marked: int) -> None:
        """What becomes of the jobs that a lost process held."""
        jobs = [job for job in member.held.values() if job.token not in member.forgotten]
        was_alone = bool(member.alone)
        member.held, member.alone = {}, []
        member.forgotten.clear()
        member.jobs.clear()
        member.forget.clear()
        culprit = [job for job in jobs if job.token == marked]
        innocent = [job for job in jobs if job.token != marked] if culprit else []
        suspects = culprit or jobs
        self._queue.extendleft(reversed(innocent))
        if not suspects:
            return
        if not was_alone:
            member.suspects.append(suspects)
        elif len(suspects) > 1:  # halve them until the one that kills is alone
            half = len(suspects) // 2
            member.suspects.extendleft((suspects[half:], suspects[:half]))
        else:
            message = (
                "the process that decoded it died or hung, twice, the second time with nothing else in it"
            )
            self._outcomes.append(Failed(suspects[0].token, "decode-failed", "decode", message, False, None))

    def _end_all(self, timeout: float) -> None:
        """Close the sockets, which ends an honest fetcher; kill the others."""
        processes = self._dying
        for member in self._members:
            if member.channel is not None:
                self._selector.unregister(member.channel)
                member.channel.close()
            if member.process is not None:
                processes.append(member.process)
            member.process = member.channel = None
            member.ready = False
        deadline = time.monotonic() + timeout
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        for process in processes:
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                log.error("a fetcher process does not end, although it was killed", pid=process.pid)

    def _close(self) -> None:
        self._selector.close()
        self._wake_out.close()
        self._wake_in.close()
        self._ring.close()


def child_environment() -> dict[str, str]:
    """What a fetcher sees of the environment: no setting, for a setting may be a password."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**kept, **one, "PYTHONPATH": path}


def _is_text(url: str) -> bool:
    if url.isascii():
        return True
    try:
        url.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoded(raw: Sequence[Any]) -> Decoded:
    token, slot, width, height, nbytes, fetch_seconds, decode_seconds = raw
    numbers = (token, slot, width, height, nbytes)
    if any(type(n) is not int for n in numbers) or type(fetch_seconds) is not float:
        raise ProtocolError("not the form of a decoded picture")
    return Decoded(token, slot, width, height, nbytes, fetch_seconds, float(decode_seconds))


def _failed(raw: Sequence[Any]) -> Failed:
    token, code, stage, message, transient, wait = raw
    if type(token) is not int or code not in ERROR_CODES or stage not in ("fetch", "decode"):
        raise ProtocolError("not the form of a failure")
    text = message[:400] if message.isprintable() else ascii(message)[:400]
    return Failed(token, code, stage, text, transient is True, None if wait is None else max(0.0, wait))
