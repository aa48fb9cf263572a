"""The encode stage: batches of decoded pictures → embeddings, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imgclust.embedding.encode_ahead import EncodeAhead
from imgclust.types import Encoder, Floats, Pixels, StreamingEncoder
from worker.tagger.out_of_memory import MemoryPatience
from worker.tagger.prediction import Ready
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing

log = logs.get(__name__)

Batch = list[Ready]


class EncodeStage:
    """Pictures are copied out of their slots, so that the next ones can be decoded while these are encoded.
    A device that goes on by itself reads them where they lie, see `EncodeAhead`: slots are given back when
    their rows are there.

    Args:
        pixels: slot → uint8 (size, size, 3) view into shared memory.
        release: gives slots back.
        next_batch: see `EncodeAhead.run`; None: stopped.
        encoded: takes tokens and their embeddings on.
        blame: a picture that cannot be encoded alone, and the error; raises it where the device is at fault.
        at_work: the stage has something to do, or not.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pixels: Callable[[int], Pixels],
        release: Callable[[list[int]], None],
        next_batch: Callable[[bool], Batch | None],
        encoded: Callable[[list[int], Floats], None],
        blame: Callable[[int, Exception], None],
        at_work: Callable[[bool], None],
        memory: MemoryPatience,
        clock: Callable[[], float],
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._encoder = encoder
        self._pixels, self._release = pixels, release
        self._next_batch, self._encoded = next_batch, encoded
        self._blame, self._at_work, self._memory = blame, at_work, memory
        self._clock, self._metrics, self._tracing = clock, metrics, tracing

    def register(self, memory: Pixels) -> None:
        """Have a device that copies by itself read pictures where they lie."""
        if isinstance(self._encoder, StreamingEncoder):
            refused = self._encoder.register(memory)
            if refused is not None:
                log.warning(
                    "the pictures' memory is not pinned; the processor helps to copy them", error=refused
                )

    def unregister(self) -> None:
        """The pictures' memory is about to go."""
        if isinstance(self._encoder, StreamingEncoder):
            self._encoder.unregister()

    def run(self) -> None:
        """Until there is no next batch."""
        if isinstance(self._encoder, StreamingEncoder):
            EncodeAhead(
                self._encoder,
                picture=lambda item: self._pixels(item.slot),
                encoded=self._encoded_in_place,
                alone=self._encode_copied,
                failed=self._failed,
                at_work=self._at_work,
                clock=self._clock,
            ).run(self._next_batch)
            return
        while (batch := self._next_batch(True)) is not None:
            self._at_work(True)
            self._encode_copied(batch)
            self._at_work(False)

    def _encoded_in_place(self, batch: Batch, rows: Floats, started: float) -> None:
        self._release([item.slot for item in batch])
        self._hand_on(batch, rows, started)

    def _failed(self, batch: Batch, error: Exception) -> None:
        self._memory.count(error)
        log.warning("a batch failed on the device; it is encoded alone", images=len(batch), error=str(error))

    def _encode_copied(self, batch: Batch) -> None:
        pixels = np.stack([self._pixels(item.slot) for item in batch])
        self._release([item.slot for item in batch])
        self._encode(batch, pixels)

    def _encode(self, batch: Batch, pixels: Pixels) -> None:
        """Encode a batch; halve it when that fails, down to the image that is at fault."""
        started = self._clock()
        try:
            embeddings = self._memory.run("encode", len(batch), lambda: self._encoder.encode(pixels))
            if embeddings is None:
                return
            if not np.isfinite(embeddings).all():
                raise ValueError("the encoder returned numbers that are not finite")
        except Exception as error:
            if len(batch) == 1:
                self._blame(batch[0].token, error)
                return
            half = len(batch) // 2
            log.warning("a batch could not be encoded; it is halved", images=len(batch), error=str(error))
        else:
            self._hand_on(batch, embeddings, started)
            return
        self._encode(batch[:half], pixels[:half])
        self._encode(batch[half:], pixels[half:])

    def _hand_on(self, batch: Batch, embeddings: Floats, started: float) -> None:
        tokens, now = [item.token for item in batch], self._clock()
        self._metrics.stages["encode"].leave(len(tokens), seconds=now - started)
        self._metrics.busy_seconds["encode"].inc(now - started)
        if self._tracing.active:
            self._tracing.stage("encode", tokens, started, now)
        self._encoded(tokens, embeddings)
