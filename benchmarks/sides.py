"""Both sides of the worker's benchmark, each in a process of its own: the worker, and the naive loop.

Where the parent's processor time goes is told thread by thread, from the scheduler's account
(`/proc/self/task/*/schedstat`). "Outside encoder and predictor" is everything in the process but what the
calls of `encode` and `predict` themselves used (`time.thread_time` around them) and the threads that torch
and the predictor keep for them; librdkafka's threads, the metrics and the batch's copy are in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import process_seconds, thread_names, thread_seconds
from benchmarks.fixed_encoder import FixedTimeEncoder, Unpredicted
from benchmarks.limits import Moment
from imgclust.types import Floats, Pixels

LOOK_EVERY = 0.02  # seconds between two looks at the counters, which cost more than what they count
GROUPS = {
    "MainThread": "loop",
    "fetchers": "fetchers",
    "encode": "encode",
    "predict": "predict",
    "view": "view",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What both sides are given.

    Attributes:
        encoder: "fixed" or "mini".
        predict: False leaves prediction out, on both sides.
        view: whether the worker keeps its Redis view; the naive loop always writes to Redis.
        fetchers: processes; 0: the worker's default.
    """

    bootstrap: str
    redis_url: str
    port: int
    model: Path
    encoder: str
    predict: bool
    view: bool = True
    fetchers: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """`parent` and `fetchers`: milliseconds of a processor for each image; `threads`: the parent's parts;
    `shares`: of the time, for which the machine's processors and the encoder were at work."""

    images_per_second: float
    parent: float
    fetchers: float
    threads: dict[str, float]
    batch: float
    shares: dict[str, float]


class Clocked:
    """An encoder or a model that counts the processor time of its calls, in the calling thread."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, pixels: Pixels) -> Floats:
        started = time.thread_time()
        try:
            found: Floats = self._inner.encode(pixels)
            return found
        finally:
            self.seconds += time.thread_time() - started

    def predict(self, embeddings: Floats) -> Any:
        started = time.thread_time()
        try:
            return self._inner.predict(embeddings)
        finally:
            self.seconds += time.thread_time() - started


def parts(setup: Setup) -> tuple[Any, Any]:
    """The model and the encoder, as both sides use them."""
    from imgclust.embedding.encoder import load_encoder
    from imgclust.model.model import ClusterModel

    model = ClusterModel.load(setup.model)
    if model.encoder is None or model.encoder.name != "mini":
        raise SystemExit(f"the benchmark needs a model fitted with mini, not {model.encoder}")
    if setup.encoder == "mini":
        encoder: Any = load_encoder("mini", device="cpu")
    else:
        encoder = FixedTimeEncoder(model.encoder, model.arrays["embeddings"])
    return model, encoder


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────


def run_worker(setup: Setup, run: str, warm: int, count: int) -> Measured:
    """Tag `warm` + `count` uploads that wait in the topic `uploads-<run>`, and measure the last `count`.

    The end is when all tags are acknowledged and, with the view, all are in Redis.
    """
    from imgclust.support.machine import keep_freed_memory
    from worker.kafka import topics
    from worker.run import beside, make_tagger, spare_collector
    from worker.settings import load as all_settings
    from worker.telemetry import log as logs
    from worker.telemetry.health import Health
    from worker.telemetry.metrics import Metrics
    from worker.wiring import topics_config

    keep_freed_memory()  # as worker.run does, before any thread
    logs.configure("text")
    settings = all_settings.load(environment(setup, run))
    metrics, health = Metrics(), Health(conditions=("assigned", "model", "encoder"))
    topics.ensure(topics_config(settings))
    model, encoder = (Clocked(part) for part in parts(setup))
    used: Any = model if setup.predict else Unpredicted(model)
    with beside(settings, metrics, health) if setup.view else contextlib.nullcontext():
        tagger = make_tagger(settings, used, encoder, metrics, health)
        try:
            tagger.start()
            spare_collector()
            return _measure(tagger, metrics, setup, encoder, model, warm, count)
        finally:
            tagger.stop(leave_group=True)


def environment(setup: Setup, run: str) -> dict[str, str]:
    """The worker's settings: its defaults, but for where things are."""
    names = {
        f"WORKER_{topic.upper()}_TOPIC": f"{topic}-{run}" for topic in ("uploads", "tags", "retry", "dlq")
    }
    fetchers = {"WORKER_FETCHERS": str(setup.fetchers)} if setup.fetchers else {}
    return names | fetchers | {
        "WORKER_BOOTSTRAP_SERVERS": setup.bootstrap,
        "WORKER_GROUP_ID": f"bench-{run}",
        "WORKER_CREATE_TOPICS": "true",
        "WORKER_REDIS_URL": setup.redis_url,
        "WORKER_REDIS_PREFIX": f"{run}:",
        "WORKER_MODEL": str(setup.model),
        "WORKER_FETCH_ALLOW_NETWORKS": "127.0.0.0/8",
        "WORKER_FETCH_ALLOW_PORTS": str(setup.port),
    }  # fmt: skip


def _measure(
    tagger: Any, metrics: Any, setup: Setup, encoder: Clocked, model: Clocked, warm: int, count: int
) -> Measured:
    tagged, dead = metrics.uploads["tagged"], metrics.uploads["dead"]
    in_redis = metrics.view_records["applied"]

    def until(enough: Callable[[], bool]) -> float:
        while not enough():
            look_again = time.monotonic() + LOOK_EVERY
            while time.monotonic() < look_again:
                tagger.run_once()
        if total(dead):
            raise SystemExit("an upload became a dead letter: the figures would mean nothing")
        return total(tagged)

    def all_done() -> bool:
        if total(tagged) + total(dead) < warm + count or tagger.pipeline.in_flight:
            return False
        return not setup.view or total(in_redis) >= warm + count

    first = until(lambda: total(tagged) >= warm)
    fetchers = fetcher_processes()
    began, before = moment(metrics), _state(metrics, encoder, model, fetchers)
    images = until(all_done) - first
    shares = began.shares(moment(metrics))
    after = _state(metrics, encoder, model, fetchers)
    wall, spent, batches = (after[i] - before[i] for i in ("wall", "fetchers", "batches"))
    threads = parent_threads(before, after)
    outside = sum(seconds for name, seconds in threads.items() if name != "compute")
    ms = 1000 / images
    return Measured(
        images / wall,
        outside * ms,
        spent * ms,
        {name: round(seconds * ms, 4) for name, seconds in threads.items()},
        images / batches,
        shares,
    )


def moment(metrics: Any) -> Moment:
    """Of the worker in this process."""
    return Moment.now(total(metrics.busy_seconds["encode"]))


def _state(metrics: Any, encoder: Clocked, model: Clocked, fetchers: list[int]) -> dict[str, Any]:
    return {
        "wall": time.monotonic(),
        "threads": thread_seconds(),
        "encode": encoder.seconds,
        "predict": model.seconds,
        "fetchers": sum(map(process_seconds, fetchers)),
        "batches": total(metrics.batch_images, "_count"),
    }


def total(instrument: Any, suffix: str = "_total") -> float:
    """What a counter has counted, or how often a histogram was told something (`_count`)."""
    samples = (sample for metric in instrument.collect() for sample in metric.samples)
    return float(sum(sample.value for sample in samples if sample.name.endswith(suffix)))


def parent_threads(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """Seconds of a processor by part of the parent; "compute" is encoder and predictor themselves."""
    names, seconds = thread_names(), Counter[str]()
    for thread, now in after["threads"].items():
        name = names.get(thread, "")
        group = GROUPS.get(name) or ("librdkafka" if name.startswith("rdk:") else "compute")
        if name in ("watchdog", "health"):
            group = "other"
        seconds[group] += now - before["threads"].get(thread, 0.0)
    for call in ("encode", "predict"):
        inside = after[call] - before[call]
        seconds[call] -= inside
        seconds["compute"] += inside
    return dict(seconds)


def fetcher_processes() -> list[int]:
    """The fetchers among the children of this process (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"worker.fetching.process" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


# ── the naive loop ───────────────────────────────────────────────────────────────────────────────────────

_warm: dict[tuple[str, bool], Any] = {}  # loops of this process: umap takes seconds to load and compile


def run_naive(setup: Setup, run: str, warm: int, count: int) -> tuple[float, float]:
    """The same uploads through the naive loop.

    Returns:
        Images per second, and milliseconds of a processor for each image outside encoder and predictor.
    """
    from benchmarks import naive

    known = _warm.get((setup.encoder, setup.predict))
    if known is None:
        model, encoder = parts(setup)
        known = _warm[setup.encoder, setup.predict] = (
            encoder,
            naive.Predicts(model) if setup.predict else naive.unpredicted,
        )
    loop = naive.NaiveLoop(setup.bootstrap, setup.redis_url, *known)
    return loop.run(f"uploads-{run}", f"tags-{run}", warm, count)
