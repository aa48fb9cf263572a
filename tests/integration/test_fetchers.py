"""`worker.fetching.pool`: real processes, a real server, and everything that may go wrong between them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.fetching.urls import FetchPolicy
from imgclust.images.decode import decode
from imgclust.types import Preprocessing
from tests.support import forked_fetchers
from tests.support.origin import Origin, Request, response, silence
from tests.support.waiting import PATIENCE, wait_for
from worker.errors import WorkerError
from worker.fetching.pool import FetcherPool, memory_needed
from worker.fetching.protocol import Decoded, Failed, FetchOutcome, Job

SIZE = Preprocessing(size=32, resize=36)
HOOK = "tests.support.hooked_decoder:decode"

linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")


def picture(seed: int) -> bytes:
    cells = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.kron(cells, np.ones((16, 16, 1), np.uint8))).save(out, "PNG")
    return out.getvalue()


class Consumer:
    """Takes outcomes, copies the pictures, gives the slots back unless told to keep them."""

    def __init__(self) -> None:
        self.pool: FetcherPool
        self.outcomes: dict[int, FetchOutcome] = {}
        self.pixels: dict[int, np.ndarray] = {}
        self.keep = False
        self.kept: list[int] = []
        self.doubled: list[int] = []
        self._news = threading.Condition()

    def __call__(self, outcomes: list[FetchOutcome]) -> None:
        with self._news:
            for outcome in outcomes:
                if outcome.token in self.outcomes:
                    self.doubled.append(outcome.token)
                self.outcomes[outcome.token] = outcome
                if isinstance(outcome, Decoded):
                    self.pixels[outcome.token] = self.pool.pixels(outcome.slot).copy()
                    self.kept.append(outcome.slot)
            self._news.notify_all()
        if not self.keep:
            self.give_back()

    def give_back(self) -> None:
        with self._news:
            slots, self.kept = self.kept, []
        self.pool.release(slots)

    def wait(self, count: int) -> dict[int, FetchOutcome]:
        return self.wait_until(lambda: len(self.outcomes) >= count)

    def wait_until(self, condition: Callable[[], bool]) -> dict[int, FetchOutcome]:
        with self._news:
            deadline = time.monotonic() + PATIENCE
            while not condition():
                assert time.monotonic() < deadline, f"only {len(self.outcomes)} outcomes"
                self._news.wait(0.05)
            assert not self.doubled
            return dict(self.outcomes)

    def failures(self) -> dict[int, Failed]:
        return {token: o for token, o in self.outcomes.items() if isinstance(o, Failed)}


@contextlib.contextmanager
def running(
    origin: Origin, *, processes: int = 1, slots: int = 8, fresh: bool = False, **options: object
) -> Iterator[Consumer]:
    """A pool at work; its processes are begun as the pool does it (`fresh`), or forked."""
    consumer = Consumer()
    policy = FetchPolicy(
        allow_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        allow_ports=(origin.port,),
        per_host=64,
        total_timeout=PATIENCE,
        first_byte_timeout=PATIENCE,
    )
    consumer.pool = FetcherPool(
        processes=processes,
        slots=slots,
        preprocessing=SIZE,
        policy=options.pop("policy", policy),  # type: ignore[arg-type]
        on_outcomes=consumer,
        **options,  # type: ignore[arg-type]
    )
    with contextlib.nullcontext() if fresh else forked_fetchers.used():
        consumer.pool.start()
        try:
            yield consumer
        finally:
            pids = pids_of(consumer.pool)
            consumer.pool.stop(5)
            assert not any(exists(pid) for pid in pids)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({f"/{i}.png": response(picture(i)) for i in range(20)}).running() as server:
        yield server


def jobs(origin: Origin, paths: Sequence[str], first: int = 1) -> list[Job]:
    return [Job(first + i, origin.url(path)) for i, path in enumerate(paths)]


def pids_of(pool: FetcherPool) -> list[int]:
    return pool.pids


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    wait_for("what the test waits for", condition, PATIENCE)


# ── what it is for ───────────────────────────────────────────────────────────────────────────────────────


def test_pictures_arrive_as_the_decoder_made_them(origin: Origin) -> None:
    """Every job ends once, with the pixels, the size and the bytes of its own image, over two processes."""
    with running(origin, fresh=True, processes=2, slots=5) as consumer:
        paths = [f"/{i % 20}.png" for i in range(200)]
        consumer.pool.submit(jobs(origin, paths))
        outcomes = consumer.wait(200)
    assert not consumer.failures()
    for token, outcome in outcomes.items():
        body = picture((token - 1) % 20)
        assert isinstance(outcome, Decoded)
        assert np.array_equal(consumer.pixels[token], decode(body, SIZE).pixels)
        assert (outcome.width, outcome.height, outcome.nbytes) == (128, 96, len(body))
        assert outcome.fetch_seconds > 0 < outcome.decode_seconds
    assert consumer.pool.restarts == 0


def test_failures_carry_code_stage_and_waiting_time(origin: Origin) -> None:
    """What the server and the bytes are to blame for, in the words of the wire contract."""
    origin.paths |= {
        "/busy": response(b"", "503 Busy", "Retry-After: 9"),
        "/text": response(b"hello, this is no image"),
        "/cut": response(picture(1)[:300]),
    }
    urls = [origin.url(p) for p in ("/none", "/busy", "/text", "/cut")]
    urls += ["http://10.0.0.1/", "file:///etc/passwd", "http://a/\ud800", "gopher://x/"]
    with running(origin) as consumer:
        consumer.pool.submit([Job(i, url) for i, url in enumerate(urls, 1)])
        consumer.wait(len(urls))
        said = [(f.code, f.stage, f.transient, f.retry_after) for _, f in sorted(consumer.failures().items())]
    assert said == [
        ("not-found", "fetch", True, None),
        ("fetch-failed", "fetch", True, 9.0),
        ("unsupported-format", "decode", False, None),
        ("decode-failed", "decode", False, None),
        *[("url-forbidden", "fetch", False, None)] * 4,
    ]
    assert all(f.message.isprintable() and len(f.message) <= 400 for f in consumer.failures().values())


def test_many_downloads_run_at_once(origin: Origin) -> None:
    """64 requests are out before the first is answered, and not one more."""
    everybody = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        if origin._now >= 64:
            everybody.set()
        await everybody.wait()
        writer.write(response(picture(0)))

    origin.paths["/together"] = handle
    with running(origin, connections=64) as consumer:
        consumer.pool.submit(jobs(origin, ["/together"] * 100))
        consumer.wait(100)
    assert not consumer.failures()
    assert origin.most_at_once == 64


def test_a_silent_host_does_not_keep_others_waiting(origin: Origin) -> None:
    """Hundreds of its images come first; those of another host are fetched while none of them has ended."""
    origin.paths["/silent"] = silence
    with Origin({"/0.png": response(picture(0))}).running() as other:
        policy = FetchPolicy(
            allow_networks=(ipaddress.ip_network("127.0.0.0/8"),),
            allow_ports=(origin.port, other.port),
            total_timeout=PATIENCE,
            first_byte_timeout=PATIENCE,
        )
        with running(origin, policy=policy, connections=64) as consumer:
            consumer.pool.submit(jobs(origin, ["/silent"] * 500))
            until(lambda: origin.counts["/silent"] == policy.host_share(64) == 48)
            consumer.pool.submit(jobs(other, ["/0.png"] * 100, first=1001))
            outcomes = consumer.wait(100)
    assert min(outcomes) == 1001
    assert not consumer.failures()
    assert origin.counts["/silent"] == policy.host_share(64) == 48


def test_without_free_slots_it_waits(origin: Origin) -> None:
    """No more pictures than slots are out, no more downloads than connections; released slots go round."""
    with running(origin, slots=3, connections=4) as consumer:
        consumer.keep = True
        consumer.pool.submit(jobs(origin, ["/0.png"] * 40))
        consumer.wait(3)
        until(lambda: origin.counts["/0.png"] == 4 + 3)  # three are delivered, four are held
        time.sleep(0.2)  # nothing more may come; a wrong implementation has time to show it
        assert len(consumer.outcomes) == 3
        assert origin.counts["/0.png"] == 4 + 3
        assert len(set(consumer.kept)) == 3
        consumer.keep = False
        consumer.give_back()
        consumer.wait(40)
    assert not consumer.failures()


def test_the_forgotten_is_neither_fetched_nor_reported(origin: Origin) -> None:
    """What waits or is being fetched when nobody wants it any more ends silently, and its place is free."""
    origin.paths["/silent"] = silence
    with running(origin, connections=2) as consumer:
        consumer.pool.submit(jobs(origin, ["/silent"] * 10))
        until(lambda: origin.counts["/silent"] == 2)
        consumer.pool.forget(range(1, 11))
        consumer.pool.submit(jobs(origin, ["/0.png"] * 5, first=100))
        outcomes = consumer.wait(5)
    assert sorted(outcomes) == [100, 101, 102, 103, 104]
    assert not consumer.failures()
    assert origin.counts["/silent"] == 2


# ── when a process dies or hangs ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("order", "restarts"), [("crash", 2), ("hang", 2)])
def test_an_image_that_kills_its_decoder_costs_only_itself(origin: Origin, order: str, restarts: int) -> None:
    """It is tried once more, alone, and then fails; every other image is decoded; the process is replaced."""
    origin.paths["/bad"] = response(f"do:{order}".encode())
    paths = [f"/{i}.png" for i in range(20)]
    paths[5] = "/bad"
    with running(origin, decode=HOOK, decode_timeout=1.0) as consumer:
        consumer.pool.submit(jobs(origin, paths))
        consumer.wait(20)
        failures = consumer.failures()
        assert list(failures) == [6]
        assert (failures[6].code, failures[6].stage, failures[6].transient) == (
            "decode-failed",
            "decode",
            False,
        )
        assert consumer.pool.restarts == restarts
    assert origin.counts["/bad"] == 2


@pytest.mark.parametrize("order", ["crash_once", "hang_once"])
def test_an_image_that_passes_the_second_time_is_decoded(origin: Origin, order: str, tmp_path: Path) -> None:
    """A process that died by accident, in the middle of an image, costs none."""
    (tmp_path / "mark.ok").write_bytes(picture(3))
    origin.paths["/odd"] = response(f"do:{order} {tmp_path}/mark".encode())
    with running(origin, decode=HOOK, decode_timeout=1.0) as consumer:
        consumer.pool.submit(jobs(origin, ["/0.png", "/odd", "/1.png", "/2.png"]))
        consumer.wait(4)
        assert consumer.pool.restarts == 1
    assert not consumer.failures()
    assert np.array_equal(consumer.pixels[2], decode(picture(3), SIZE).pixels)


def test_a_killed_process_loses_nothing(origin: Origin) -> None:
    """Killed from outside while it fetches: all that it held is fetched again by its replacement."""
    gate = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        if not gate.is_set():
            await silence(reader, writer, request)
        writer.write(response(picture(0)))

    origin.paths["/held"] = handle
    with running(origin, fresh=True, processes=2, slots=4, connections=8) as consumer:
        until(lambda: consumer.pool.alive == 2)
        consumer.pool.submit(jobs(origin, ["/held"] * 16))
        until(lambda: origin.counts["/held"] == 16)
        victims = pids_of(consumer.pool)
        gate.set()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        consumer.wait(16)
        assert consumer.pool.restarts == 2
        assert not set(victims) & set(pids_of(consumer.pool))
    assert not consumer.failures()


def test_slots_that_were_out_when_a_process_died_stay_valid(origin: Origin) -> None:
    """The replacement does not write where the consumer still reads."""
    with running(origin, slots=2) as consumer:
        consumer.keep = True
        consumer.pool.submit(jobs(origin, ["/0.png", "/1.png", "/2.png"]))
        consumer.wait(2)
        kept = list(consumer.kept)
        before = [consumer.pool.pixels(slot).copy() for slot in kept]
        os.kill(pids_of(consumer.pool)[0], signal.SIGKILL)
        until(lambda: consumer.pool.restarts == 1 and consumer.pool.alive == 1)
        consumer.pool.release(kept[:1])
        consumer.wait(3)
        assert np.array_equal(consumer.pool.pixels(kept[1]), before[1])
        consumer.give_back()
    assert not consumer.failures()


def test_jobs_that_kill_without_a_trace_are_found(origin: Origin) -> None:
    """No mark says who is to blame: the held jobs are tried apart until the one that kills is alone."""

    async def killer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        for pid in pids_of(consumer.pool):
            os.kill(pid, signal.SIGKILL)

    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        if origin.counts["/kill"] == 0:  # be under way when the first kill comes
            await silence(reader, writer, request)
        writer.write(response(picture(0)))

    origin.paths |= {"/kill": killer, "/patient": patient}
    with running(origin) as consumer:
        consumer.pool.submit(jobs(origin, ["/patient"] * 6))
        until(lambda: origin.counts["/patient"] == 6)
        consumer.pool.submit(jobs(origin, ["/kill"], first=7))
        consumer.wait(7)
        failures = consumer.failures()
    assert list(failures) == [7]
    assert failures[7].code == "decode-failed"


@pytest.mark.parametrize("order", ["panic", "eat"])
def test_what_a_codec_throws_stays_inside(origin: Origin, order: str) -> None:
    """Panics and exhausted memory cost the image; the process goes on."""
    origin.paths["/bad"] = response(f"do:{order}".encode())
    with running(origin, decode=HOOK) as consumer:
        consumer.pool.submit(jobs(origin, ["/0.png", "/bad", "/1.png"]))
        consumer.wait(3)
        assert [(token, f.code) for token, f in consumer.failures().items()] == [(2, "decode-failed")]
        assert consumer.pool.restarts == 0


@pytest.mark.parametrize(
    "lie",
    [
        "nonsense",
        "[]",
        "{}",
        '{"decoded":[[1,99,1,1,1,0.1,0.1]],"failed":[]}',  # a slot that there is not
        '{"decoded":[[1,4,1,1,1,0.1,0.1]],"failed":[]}',  # somebody else's slot
        '{"decoded":[[77,0,1,1,1,0.1,0.1]],"failed":[]}',  # a job that it does not hold
        '{"decoded":[["x",0,1,1,1,0.1,0.1]],"failed":[]}',
        '{"decoded":[],"failed":[[1,"made-up","fetch","",true,null]]}',
        '{"decoded":[],"failed":[[1,"fetch-failed","fetch",5,true,null]]}',
        '{"decoded":[],"failed":[[1,"fetch-failed","fetch","",true,"soon"]]}',
        "\xff\xfe",
    ],
)
def test_a_fetcher_that_lies_is_replaced(origin: Origin, lie: str) -> None:
    """What no honest fetcher says ends it; nothing of it reaches the consumer."""
    origin.paths["/bad"] = response(f"do:say {lie}".encode("latin-1"))
    with running(origin, processes=2, slots=8, decode=HOOK) as consumer:
        until(lambda: consumer.pool.alive == 2)  # then the first job goes to the first place
        consumer.pool.submit(jobs(origin, ["/bad", "/1.png"]))
        consumer.wait(2)
        assert [(token, f.code) for token, f in consumer.failures().items()] == [(1, "decode-failed")]
        assert consumer.pool.restarts == 2


def test_a_fetcher_that_floods_is_replaced(origin: Origin, tmp_path: Path) -> None:
    """A message without end fills no memory."""
    origin.paths["/bad"] = response(b"do:say " + b"x" * 5_000_000)
    with running(origin, decode=HOOK) as consumer:
        consumer.pool.submit(jobs(origin, ["/bad"]))
        consumer.wait(1)
        assert consumer.failures()[1].code == "decode-failed"


def fields(record: logging.LogRecord) -> dict[str, str]:
    return getattr(record, "fields", {})


def test_what_a_codec_writes_to_stderr_is_bounded_and_no_log_line(
    origin: Origin, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Three megabytes of it reach no stream of ours as they are, cost no process, and are a few values in the
    log; what a crash says of itself is in the line about its process."""
    caplog.set_level(logging.INFO)
    origin.paths["/bad"] = response(b'do:mutter {"level":"info","event":"forged"}\n\x1b[2J')
    origin.paths["/crash"] = response(b"do:crash")
    with running(origin, fresh=True, decode=HOOK) as consumer:
        consumer.pool.submit(jobs(origin, ["/bad"]))
        consumer.wait(1)
        assert consumer.failures()[1].code == "unsupported-format"
        assert consumer.pool.restarts == 0
        consumer.pool.submit(jobs(origin, ["/crash"], 2))
        consumer.wait(2)
    captured = capfd.readouterr()
    assert "forged" not in captured.out + captured.err
    heard = [fields(record)["text"] for record in caplog.records if "text" in fields(record)]
    assert "forged" in heard[0]
    assert sum(map(len, heard)) < 600_000
    assert any("Segmentation fault" in fields(record).get("stderr", "") for record in caplog.records)


def test_a_pool_that_cannot_start_says_so_and_tries_ever_more_rarely(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """Not ready, a loud error with the reason, few tries, and `stop` works."""
    with running(origin, fresh=True, decode="no.such.module:decode") as consumer:
        consumer.pool.submit(jobs(origin, ["/0.png"]))
        until(lambda: consumer.pool.restarts >= 2)
        assert consumer.pool.alive == 0
        assert not consumer.outcomes
    assert "does not start" in caplog.text
    assert any("ModuleNotFoundError" in fields(record).get("stderr", "") for record in caplog.records)
    assert consumer.pool.restarts <= 4


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────


def test_stopping_while_busy_leaves_nothing(origin: Origin) -> None:
    """Downloads, a decoder that hangs and pictures nobody took: the processes end, no file is left open."""
    origin.paths |= {"/silent": silence, "/hang": response(b"do:hang")}
    before = len(os.listdir("/dev/fd"))
    with running(origin, fresh=True, processes=2, slots=4, decode=HOOK) as consumer:
        consumer.keep = True
        consumer.pool.submit(jobs(origin, ["/0.png", "/1.png"]))
        consumer.wait(2)
        consumer.pool.submit(jobs(origin, ["/silent", "/hang", "/0.png", "/1.png"] * 10, first=3))
        until(lambda: origin.counts["/silent"] + origin.counts["/hang"] >= 20)
    consumer.pool.stop(5)
    consumer.pool.submit(jobs(origin, ["/0.png"]))
    consumer.pool.release([0])
    assert len(os.listdir("/dev/fd")) <= before
    assert not any(thread.name == "fetchers" for thread in threading.enumerate())


def test_a_pool_that_was_never_started_can_be_stopped(origin: Origin) -> None:
    """No thread, no process, no wait."""
    pool = FetcherPool(processes=1, slots=1, preprocessing=SIZE, policy=FetchPolicy(), on_outcomes=print)
    pool.stop(5)


def test_a_broken_pool_refuses_work(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its thread breaks, whoever submits learns of it instead of waiting for ever."""
    with running(origin) as consumer:
        until(lambda: consumer.pool.alive == 1)
        monkeypatch.setattr(consumer.pool, "_dispatch", lambda: 1 / 0)
        consumer.pool.submit(jobs(origin, ["/0.png"]))
        until(lambda: not consumer.pool._thread.is_alive())
        with pytest.raises(WorkerError, match="ZeroDivisionError"):
            consumer.pool.submit(jobs(origin, ["/0.png"]))


ORPHANS = """
import signal, sys
from imgclust.types import Preprocessing
from imgclust.fetching.urls import FetchPolicy
from tests.support.waiting import PATIENCE, wait_for
from worker.fetching.pool import FetcherPool
size = Preprocessing(32, 36)
pool = FetcherPool(processes=2, slots=2, preprocessing=size, policy=FetchPolicy(), on_outcomes=print)
pool.start()
wait_for("both are alive", lambda: pool.alive == 2)
print(*pool.pids, flush=True)
signal.pause()
"""


def test_fetchers_end_with_their_parent() -> None:
    """A parent that is killed leaves no process behind."""
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    until(lambda: not any(exists(pid) for pid in pids))


SPINNING = """
import signal, sys
from pathlib import Path
from imgclust.types import Preprocessing
from imgclust.fetching.urls import FetchPolicy
from tests.support.waiting import PATIENCE, wait_for
from worker.fetching import pool as fetchers
from worker.fetching.protocol import Job
fetchers.HEARTBEAT_TIMEOUT = 1.0  # the one that fetchers are told
folder = Path(sys.argv[1])
pool = fetchers.FetcherPool(processes=1, slots=1, preprocessing=Preprocessing(32, 36), on_outcomes=print,
                            policy=FetchPolicy(allow_files=folder), decode=sys.argv[2], decode_timeout=1.0)
pool.start()
pool.submit([Job(1, f"file://{folder}/spin")])
wait_for("it decodes", lambda: pool._ring.marked(0))
print(*pool.pids, flush=True)
signal.pause()
"""


def test_a_fetcher_that_spins_ends_although_its_parent_is_gone(tmp_path: Path) -> None:
    """A codec holds the GIL for ever and nobody is left to kill the process: a timer in C ends it."""
    (tmp_path / "spin").write_bytes(b"do:spin")
    command = [sys.executable, "-c", SPINNING, str(tmp_path), HOOK]
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not exists(pid))


@linux
def test_a_fetcher_is_small_and_knows_no_secrets(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle it holds less than 80 MB; no heavy library is in it; its environment has no setting."""
    monkeypatch.setenv("WORKER_KAFKA_SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with running(origin, fresh=True, slots=64) as consumer:
        consumer.pool.submit(jobs(origin, ["/0.png"]))
        consumer.wait(1)
        folder = Path("/proc") / str(pids_of(consumer.pool)[0])
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        maps = (folder / "maps").read_text()
        assert b"hunter2" not in (folder / "environ").read_bytes()
        limits = (folder / "limits").read_text()
    assert int(status["VmRSS"].split()[0]) < 80 * 1024
    assert not any(
        f"/{name}/" in maps for name in ("torch", "numba", "llvmlite", "scipy", "sklearn", "pyarrow")
    )
    assert f"Max data size             {memory_needed(50_000_000, 20 * 2**20)}" in limits


def test_signals_of_the_terminal_do_not_end_a_fetcher(origin: Origin) -> None:
    """SIGINT and SIGTERM are the parent's to answer."""
    with running(origin, fresh=True) as consumer:
        until(lambda: consumer.pool.alive == 1)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pids_of(consumer.pool)[0], number)
        consumer.pool.submit(jobs(origin, ["/0.png"]))
        consumer.wait(1)
        assert consumer.pool.restarts == 0
    assert not consumer.failures()
