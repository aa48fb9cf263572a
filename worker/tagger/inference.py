"""Decoded pictures → predictions: the encoder's thread and the predictor's thread.

Two threads, so that the accelerator encodes the next batch while the processor predicts the last one. Both
spend their time in code that holds no GIL, beside the thread that owns Kafka.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from imgclust.types import Encoder, Floats, Pixels
from worker.messages.embedding import halves
from worker.tagger.batcher import Batcher
from worker.tagger.drift_gauges import DriftWatch
from worker.tagger.prediction import InferenceOutcome, Model, ModelInfo, Ready, Unencodable, rows
from worker.tagger.shadow import Shadow
from worker.telemetry import log as logs
from worker.telemetry.metrics import LIVE_DRIFT, Metrics
from worker.telemetry.tracing import Tracing

log = logs.get(__name__)


T = TypeVar("T")
MEMORY_WAIT, MEMORY_WAIT_MAX = 0.5, 10.0  # seconds


def is_out_of_memory(error: Exception) -> bool:
    # by name, as torch is not imported here; its allocator on the CPU raises a RuntimeError
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """Another model, from the next batch on; `role` says for what."""

    role: str
    model: Model | None
    done: threading.Event


class Inference:
    """The encode and predict stages.

    The model may be changed while it runs, see `use`: a batch is predicted by one model, and every outcome
    names the one that made it.

    Args:
        encoder, model: already warm, see `warm_up`.
        pixels: slot → uint8 (size, size, 3) view into shared memory.
        release: gives slots back; called as soon as a batch is copied, so that the next one can be decoded.
        on_outcomes: called from the predictor's thread with many outcomes at a time.
        on_broken: called once, with the error, when not even a grey picture can be encoded.
        keep_embeddings: outcomes carry their embeddings.
    """

    def __init__(
        self,
        encoder: Encoder,
        model: Model,
        *,
        pixels: Callable[[int], Pixels],
        release: Callable[[list[int]], None],
        on_outcomes: Callable[[list[InferenceOutcome]], None],
        on_broken: Callable[[Exception], None],
        max_batch: int,
        max_wait: float,
        clock: Callable[[], float],
        metrics: Metrics,
        tracing: Tracing | None = None,
        keep_embeddings: bool = False,
    ) -> None:
        self._encoder = encoder
        self._keep_embeddings = keep_embeddings
        self._model, self._maker = model, ModelInfo.of(model)
        self._pixels = pixels
        self._release = release
        self._on_outcomes = on_outcomes
        self._on_broken = on_broken
        self._clock = clock
        self._encode_stage = metrics.stages["encode"]
        self._predict_stage = metrics.stages["predict"]
        self._metrics = metrics
        self._tracing = tracing or Tracing()
        self._drift = DriftWatch(metrics, clock, LIVE_DRIFT)
        self._drift.begin(model)
        self.shadow = Shadow(metrics, clock)
        self._batcher: Batcher[Ready] = Batcher(max_batch, max_wait)
        self._wake = threading.Condition()
        self._stopping = False
        self._outstanding = 0
        # two batches: one is predicted, one waits; more would only add latency
        self._encoded: queue.Queue[tuple[list[int], Floats, float] | _Change | None] = queue.Queue(maxsize=2)
        self._busy: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=self._guard, args=(run,), name=name, daemon=True)
            for name, run in (("encode", self._encode_loop), ("predict", self._predict_loop))
        ]

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run batches of `sizes` pictures through both stages, so that the first upload waits for nothing."""
        side = self._encoder.identity.preprocessing.size
        for n in sizes:
            grey = np.full((n, side, side, 3), 128, np.uint8)
            self._model.predict(self._encoder.encode(grey))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def maker(self) -> ModelInfo:
        """The model at work."""
        return self._maker

    def use(self, model: Model) -> None:
        """Predict with another model, that is loaded and warm, from the next batch on; any thread may ask.

        Returns when it is at work, or when inference has been stopped.
        """
        self._change("live", model)

    def use_shadow(self, model: Model | None) -> None:
        """Have another model predict the same embeddings beside the one at work; None: none any more."""
        self._change("shadow", model)

    def _change(self, role: str, model: Model | None) -> None:
        change = _Change(role, model, threading.Event())
        while not self._stopping:  # the queue is full while batches wait
            try:
                self._encoded.put(change, timeout=0.1)
                break
            except queue.Full:
                continue
        while not self._stopping and not change.done.wait(0.1):
            pass

    def stop(self) -> None:
        """End both threads after the batches in hand; what waits is not done."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self.shadow.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)

    def put(self, ready: Sequence[Ready]) -> None:
        """Decoded pictures, from any thread; never waits."""
        now = self._clock()
        self._encode_stage.enter(len(ready))
        with self._wake:
            self._outstanding += len(ready)
            for item in ready:
                self._batcher.add(item, now)
            self._wake.notify()

    @property
    def outstanding(self) -> int:
        """Pictures that were put and have no outcome yet."""
        return self._outstanding

    def _ended(self, outcomes: list[InferenceOutcome]) -> None:
        with self._wake:
            self._outstanding -= len(outcomes)
        self._on_outcomes(outcomes)

    def stalled_for(self) -> dict[str, float]:
        """Seconds that each busy stage has spent on its current batch."""
        now = self._clock()
        return {name: now - since for name, since in self._busy.copy().items()}

    # ── encode ───────────────────────────────────────────────────────────────────────────────────────────

    def _next_batch(self) -> list[Ready] | None:
        with self._wake:
            while not self._stopping:
                now = self._clock()
                age = self._batcher.age(now)
                batch = self._batcher.take(now)
                if batch:
                    self._metrics.batch_wait.observe(age)
                    return batch
                self._wake.wait(self._batcher.wait(now))
        return None

    def _encode_loop(self) -> None:
        while (batch := self._next_batch()) is not None:
            started = self._clock()
            self._busy["encode"] = started
            tokens = [item.token for item in batch]
            pixels = np.stack([self._pixels(item.slot) for item in batch])
            self._release([item.slot for item in batch])
            self._metrics.batch_images.observe(len(batch))
            for part, embeddings in self._encode(tokens, pixels):
                self._predict_stage.enter(len(part))
                self._encoded.put((part, embeddings, self._clock()))
            del self._busy["encode"]
        self._encoded.put(None)

    def _encode(self, tokens: list[int], pixels: Pixels) -> list[tuple[list[int], Floats]]:
        """Encode a batch; halve it when that fails, down to the image that is at fault."""
        started = self._clock()
        try:
            embeddings = self._when_memory_allows("encode", len(tokens), lambda: self._encoder.encode(pixels))
            if embeddings is None:
                return []
            if not np.isfinite(embeddings).all():
                raise ValueError("the encoder returned numbers that are not finite")
        except Exception as error:
            if len(tokens) > 1:
                half = len(tokens) // 2
                log.warning(
                    "a batch could not be encoded; it is halved", images=len(tokens), error=str(error)
                )
                return self._encode(tokens[:half], pixels[:half]) + self._encode(tokens[half:], pixels[half:])
            self._blame(tokens[0], "encode", error)
            return []
        now = self._clock()
        self._encode_stage.leave(len(tokens), seconds=now - started)
        self._metrics.busy_seconds["encode"].inc(now - started)
        if self._tracing.active:
            self._tracing.stage("encode", tokens, started, now)
        return [(tokens, embeddings)]

    def _when_memory_allows(self, stage: str, images: int, call: Callable[[], T]) -> T | None:
        """What `call` returns. When even one image finds no memory, others on the device have it: it is tried
        again, later and later, as no image is at fault for that; None when inference is stopped meanwhile."""
        wait = MEMORY_WAIT
        while True:
            try:
                return call()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._metrics.out_of_memory.inc()
                if images > 1:
                    raise
                log.warning("no memory for one image; it is tried again", stage=stage, seconds=wait)
            with self._wake:
                if self._wake.wait_for(lambda: self._stopping, wait):
                    return None
            self._busy[stage] = self._clock()  # waiting is no hang
            wait = min(2 * wait, MEMORY_WAIT_MAX)

    def _blame(self, token: int, stage: str, error: Exception) -> None:
        """The image is at fault only if a harmless one passes; else the device is, and all would be lost."""
        try:
            self._when_memory_allows(stage, 1, lambda: self.warm_up([1]))
        except Exception:
            raise error from None
        (self._encode_stage if stage == "encode" else self._predict_stage).leave(1, "dead")
        self._ended([Unencodable(token, f"{type(error).__name__}: {error}")])

    # ── predict ──────────────────────────────────────────────────────────────────────────────────────────

    def _predict_loop(self) -> None:
        while (item := self._encoded.get()) is not None:
            if isinstance(item, _Change):
                self._apply(item)
                continue
            tokens, embeddings, since = item
            self._busy["predict"] = self._clock()
            self._predict(tokens, embeddings, since)
            del self._busy["predict"]

    def _apply(self, change: _Change) -> None:
        if change.role == "shadow":
            self.shadow.use(change.model, self._model)
        elif change.model is not None:
            self._model, self._maker = change.model, ModelInfo.of(change.model)
            self._drift.begin(change.model)
            self.shadow.follow(change.model)
        change.done.set()

    def _predict(self, tokens: list[int], embeddings: Floats, since: float) -> None:
        started = self._clock()
        try:
            prediction = self._when_memory_allows(
                "predict", len(tokens), lambda: self._model.predict(embeddings)
            )
            if prediction is None:
                return
            kept = halves(embeddings) if self._keep_embeddings else None
            outcomes: list[InferenceOutcome] = [*rows(self._maker, tokens, prediction, kept)]
        except Exception as error:
            if len(tokens) == 1:
                self._blame(tokens[0], "predict", error)
                return
            half = len(tokens) // 2
            self._predict(tokens[:half], embeddings[:half], since)
            self._predict(tokens[half:], embeddings[half:], since)
            return
        now = self._clock()
        self._predict_stage.leave(len(tokens), seconds=now - since)
        self._metrics.busy_seconds["predict"].inc(now - started)
        if self._tracing.active:
            self._tracing.stage("predict", tokens, started, now)
        self._drift.add(prediction)
        for similarity in prediction.similarities.tolist():
            self._metrics.similarity.observe(similarity)
        self._ended(outcomes)
        self.shadow.offer(embeddings, prediction)

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:
            log.exception("inference is broken")
            self._on_broken(error)
