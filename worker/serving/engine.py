"""A question → a prediction: the fetchers and inference of the stream, for those who wait for the answer.

    ask ─► fetch, decode (processes) ─► batch ─► encode ─► predict ─► the future of the one who asked

Everything that is asked at once shares batches, whoever asks. Nothing here knows HTTP or Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from imgclust.types import Encoder
from worker.fetching.pool import FetcherPool
from worker.fetching.protocol import Decoded, Failed, FetchOutcome, Job
from worker.tagger.inference import Inference
from worker.tagger.prediction import InferenceOutcome, Model, Predicted, Ready, Unencodable
from worker.tagger.stages import StageMetrics
from worker.tagger.tagger import Fetching, batch_sizes
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing

Answer = Predicted | Unencodable | Failed


class FullError(Exception):
    """So many wait already that one more would only wait longer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """
    Attributes:
        questions: that wait for an answer at once.
        body_bytes: of pictures that were sent and are not decoded yet, all together.
    """

    questions: int
    body_bytes: int


class Engine:
    """Answers questions; for one event loop, in which it is made.

    Args:
        folder: where pictures that were sent lie until they are decoded; nothing else is in it.
        model, encoder: loaded.
    """

    def __init__(
        self,
        fetching: Fetching,
        bounds: Bounds,
        folder: Path,
        model: Model,
        encoder: Encoder,
        *,
        max_batch: int,
        max_wait: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._bounds = bounds
        self._folder = folder
        self._max_batch = max_batch
        self._metrics = metrics
        self._stages = StageMetrics(metrics, Tracing())
        self._tokens = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._fetching: set[int] = set()  # tokens; other threads take from it
        self._seats = self._body_bytes = 0
        self.idle = asyncio.Event()  # nobody waits
        self.idle.set()
        self.broken: asyncio.Future[Exception] = self._loop.create_future()
        self._fetchers = FetcherPool(
            processes=fetching.processes,
            slots=fetching.slots,
            preprocessing=encoder.identity.preprocessing,
            # pictures that were sent come to the fetchers as files, to be decoded under the same limits
            policy=dataclasses.replace(fetching.policy, allow_files=folder),
            on_outcomes=self._on_fetched,
            connections=fetching.connections,
            max_pixels=fetching.max_pixels,
            decode_timeout=fetching.decode_timeout,
        )
        self.inference = Inference(
            encoder,
            model,
            pixels=self._fetchers.pixels,
            release=self._fetchers.release,
            on_outcomes=self._on_predicted,
            on_broken=self._on_broken,
            max_batch=max_batch,
            max_wait=max_wait,
            clock=clock,
            metrics=metrics,
        )

    def start(self) -> None:
        """Warm up and start; takes seconds."""
        self._fetchers.start()
        self.inference.register(self._fetchers.memory)
        self.inference.warm_up(batch_sizes(self._max_batch))
        self.inference.start()

    def stop(self) -> None:
        self.inference.stop()
        self._fetchers.stop(timeout=5)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def waiting(self) -> int:
        """Questions that have a seat now."""
        return self._seats

    @contextlib.contextmanager
    def seat(self, body_bytes: int = 0) -> Iterator[None]:
        """Room for one question, to be had before anything of it is read.

        Args:
            body_bytes: that it may bring.

        Raises:
            FullError: there is none.
        """
        if self._seats >= self._bounds.questions:
            raise FullError(f"{self._seats} requests are waiting already")
        if self._body_bytes and self._body_bytes + body_bytes > self._bounds.body_bytes:
            raise FullError(f"{self._body_bytes:,} bytes of pictures are waiting already")
        self._seats += 1
        self.idle.clear()
        self._body_bytes += body_bytes
        try:
            yield
        finally:
            self._seats -= 1
            self._body_bytes -= body_bytes
            if not self._seats:
                self.idle.set()

    @contextlib.asynccontextmanager
    async def picture(self, body: bytes) -> AsyncIterator[str]:
        """The URL of a picture that was sent, while the block runs."""
        file = self._folder / secrets.token_hex(16)
        try:
            await asyncio.to_thread(file.write_bytes, body)
            yield file.as_uri()
        finally:
            file.unlink(missing_ok=True)

    async def ask(self, url: str) -> Answer:
        """What the picture shows, or why it cannot be said. When cancelled, it is not fetched any more."""
        token = next(self._tokens)
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[token] = future
        self._fetching.add(token)
        self._metrics.stages["fetch"].enter(1)
        self._fetchers.submit([Job(token, url)])
        try:
            return await future
        finally:
            self._waiting.pop(token, None)
            if token in self._fetching:
                self._fetching.discard(token)
                self._fetchers.forget([token])
                self._metrics.stages["fetch"].leave(1, "dropped")

    # ── what comes back, on other threads ────────────────────────────────────────────────────────────────

    def _on_fetched(self, outcomes: list[FetchOutcome]) -> None:
        wanted = [outcome for outcome in outcomes if outcome.token in self._fetching]
        tokens = {outcome.token for outcome in wanted}
        self._fetching -= tokens
        if unwanted := [o.slot for o in outcomes if isinstance(o, Decoded) and o.token not in tokens]:
            self._fetchers.release(unwanted)
        self._stages.fetched(wanted)
        if ready := [Ready(o.token, o.slot) for o in wanted if isinstance(o, Decoded)]:
            self.inference.put(ready)
        if failed := [o for o in wanted if isinstance(o, Failed)]:
            self._loop.call_soon_threadsafe(self._answer, failed)

    def _on_predicted(self, outcomes: list[InferenceOutcome]) -> None:
        self._loop.call_soon_threadsafe(self._answer, outcomes)

    def _on_broken(self, error: Exception) -> None:
        self._loop.call_soon_threadsafe(self._break, error)

    def _answer(self, outcomes: Sequence[Answer]) -> None:
        for outcome in outcomes:
            future = self._waiting.pop(outcome.token, None)
            if future is not None and not future.done():
                future.set_result(outcome)

    def _break(self, error: Exception) -> None:
        if not self.broken.done():
            self.broken.set_result(error)
