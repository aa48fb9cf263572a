"""Decoded pictures → predictions: the encoder's thread and the predictor's thread.

Two threads, so that the accelerator encodes the next batch while the processor predicts the last one. Both
spend their time in code that holds no GIL, beside the thread that owns Kafka.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np

from imgclust.types import Encoder, Floats, Pixels
from worker.messages.embedding import halves
from worker.tagger.batcher import Batcher
from worker.tagger.drift_gauges import DriftWatch
from worker.tagger.encode_stage import EncodeStage
from worker.tagger.encoded_queue import Encoded, EncodedQueue
from worker.tagger.out_of_memory import MemoryPatience
from worker.tagger.prediction import InferenceOutcome, Model, ModelInfo, Ready, Unencodable, rows
from worker.tagger.shadow import Shadow
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.model_metrics import LIVE_DRIFT
from worker.telemetry.tracing import Tracing

log = logs.get(__name__)


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
        release: gives slots back: as soon as a batch is copied, so that the next one can be decoded; where
            the device copies from the slots itself, when it has encoded them.
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
        self._encoded: EncodedQueue[_Change] = EncodedQueue(max_batch)
        self._busy: dict[str, float] = {}
        self._memory = MemoryPatience(metrics, self._pause, self._at_work)
        self._grey: Floats | None = None  # a row of the encoder's
        self._encoding = EncodeStage(
            encoder,
            pixels=pixels,
            release=release,
            next_batch=self._next_batch,
            encoded=self._hand_on,
            blame=lambda token, error: self._blame(token, "encode", error),
            at_work=lambda busy: self._at_work("encode") if busy else self._rests("encode"),
            memory=self._memory,
            clock=clock,
            metrics=metrics,
            tracing=self._tracing,
        )
        self._threads = [
            threading.Thread(target=self._guard, args=(run,), name=name, daemon=True)
            for name, run in (("encode", self._encode_loop), ("predict", self._predict_loop))
        ]

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run batches of `sizes` pictures through both stages, so that the first upload waits for nothing."""
        side = self._encoder.identity.preprocessing.size
        for n in sizes:
            self._grey = self._encoder.encode(np.full((n, side, side, 3), 128, np.uint8))[:1]
            self._model.predict(np.repeat(self._grey, n, axis=0))

    def register(self, memory: Pixels) -> None:
        """Have a device that copies by itself read pictures where they lie; before `start`."""
        self._encoding.register(memory)

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
        while not self._stopping and not self._encoded.offer(change, timeout=0.1):
            pass  # it is full while batches wait
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
        self._encoding.unregister()

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

    def _at_work(self, stage: str) -> None:
        self._busy[stage] = self._clock()

    def _rests(self, stage: str) -> None:
        self._busy.pop(stage, None)

    def _pause(self, seconds: float) -> bool:
        with self._wake:
            return self._wake.wait_for(lambda: self._stopping, seconds)

    # ── encode ───────────────────────────────────────────────────────────────────────────────────────────

    def _next_batch(self, wait: bool) -> list[Ready] | None:
        """What is due, after waiting for it or not; None when stopped."""
        with self._wake:
            while not self._stopping:
                now = self._clock()
                age = self._batcher.age(now)
                batch = self._batcher.take(now)
                if batch:
                    self._metrics.batch_wait.observe(age)
                    self._metrics.batch_images.observe(len(batch))
                    return batch
                if not wait:
                    return []
                self._wake.wait(self._batcher.wait(now))
        return None

    def _encode_loop(self) -> None:
        try:
            self._encoding.run()
        finally:  # broken or not, nothing more comes
            self._encoded.put(None)

    def _hand_on(self, tokens: list[int], embeddings: Floats) -> None:
        self._predict_stage.enter(len(tokens))
        self._encoded.put(Encoded(tokens, embeddings, self._clock()))

    def _blame(self, token: int, stage: str, error: Exception) -> None:
        """The image is at fault only if a harmless one passes; else the device is, and all would be lost."""
        try:
            self._memory.run(stage, 1, lambda: self._try_grey(stage))
        except Exception:
            raise error from None
        (self._encode_stage if stage == "encode" else self._predict_stage).leave(1, "dead")
        self._ended([Unencodable(token, f"{type(error).__name__}: {error}")])

    def _try_grey(self, stage: str) -> None:
        if stage == "predict" and self._grey is not None:  # the encoder is another thread's
            self._model.predict(self._grey)
        else:
            self.warm_up([1])

    # ── predict ──────────────────────────────────────────────────────────────────────────────────────────

    def _predict_loop(self) -> None:
        while (item := self._encoded.take()) is not None:
            if isinstance(item, _Change):
                self._apply(item)
                continue
            self._at_work("predict")
            self._predict(item.tokens, item.embeddings, item.since)
            self._rests("predict")

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
            prediction = self._memory.run("predict", len(tokens), lambda: self._model.predict(embeddings))
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
