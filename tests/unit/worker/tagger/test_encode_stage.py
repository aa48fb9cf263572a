"""worker.tagger.encode_stage, in `Inference`: pictures stay where they are until the device has read them."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from imgclust.types import Pixels
from tests.support.ahead_encoder import AheadEncoder
from tests.support.fake_encoder import SIDE, FakeModel
from tests.support.waiting import wait_for
from worker.tagger.inference import Inference
from worker.tagger.prediction import InferenceOutcome, Predicted, Ready, Unencodable
from worker.telemetry.metrics import Metrics

SLOTS = 16


class Bench:
    """An Inference over slots that are overwritten as soon as they are given back."""

    def __init__(self, encoder: AheadEncoder, max_batch: int = 4) -> None:
        self.memory = np.empty((SLOTS, SIDE, SIDE, 3), np.uint8)
        for slot in range(SLOTS):
            self.memory[slot] = slot
        self.outcomes: list[InferenceOutcome] = []
        self.released: list[int] = []
        self.metrics = Metrics()
        self.broken: list[Exception] = []
        self.inference = Inference(
            encoder, FakeModel(), pixels=lambda slot: self.memory[slot], release=self.release,
            on_outcomes=self.outcomes.extend, on_broken=self.broken.append, max_batch=max_batch,
            max_wait=0.001, clock=time.monotonic, metrics=self.metrics,
        )  # fmt: skip

    def release(self, slots: list[int]) -> None:
        self.released += slots
        self.memory[slots] = 200

    def run(self, until: Callable[[], bool]) -> None:
        self.inference.warm_up([1])
        self.inference.register(self.memory)
        self.inference.put([Ready(100 + slot, slot) for slot in range(SLOTS)])
        self.inference.start()
        wait_for("all outcomes", until)
        self.inference.stop()

    def clusters(self) -> dict[int, int]:
        return {o.token - 100: o.cluster for o in self.outcomes if isinstance(o, Predicted)}


def test_slots_are_given_back_when_they_were_encoded() -> None:
    """Each picture is encoded as it was, each slot given back once, and the next batch is there before the
    last one is done."""
    encoder = AheadEncoder()
    bench = Bench(encoder)
    bench.run(lambda: len(bench.outcomes) == SLOTS)
    assert bench.clusters() == {slot: slot for slot in range(SLOTS)}
    assert sorted(bench.released) == list(range(SLOTS))
    assert encoder.deepest == 2
    assert encoder.registered is None, "given back at the end"
    assert bench.metrics.value("imgclust_stage_in_progress", stage="encode") == 0
    assert bench.metrics.value("imgclust_stage_busy_seconds_total", stage="encode") > 0
    assert bench.inference.stalled_for() == {}


def test_a_batch_that_fails_is_encoded_alone() -> None:
    """Halved as ever, down to the picture at fault, while others are under way."""
    bench = Bench(AheadEncoder(bad=frozenset({6})))
    bench.run(lambda: len(bench.outcomes) == SLOTS)
    assert [o.token for o in bench.outcomes if isinstance(o, Unencodable)] == [106]
    assert bench.clusters() == {slot: slot for slot in range(SLOTS) if slot != 6}
    assert sorted(bench.released) == list(range(SLOTS))
    assert bench.broken == []


def test_too_little_memory_costs_no_picture() -> None:
    """What the device has no memory for is counted and encoded alone; a batch of more than it takes by now
    goes in parts."""
    bench = Bench(AheadEncoder(most=3, missing=2))
    bench.run(lambda: len(bench.outcomes) == SLOTS)
    assert bench.clusters() == {slot: slot for slot in range(SLOTS)}
    assert bench.metrics.value("imgclust_encoder_out_of_memory_total") == 2


def test_memory_that_cannot_be_registered_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The worker goes on with it, more slowly."""

    class Refusing(AheadEncoder):
        def register(self, memory: Pixels) -> str | None:
            return "the driver says no"

    bench = Bench(Refusing())
    caplog.clear()
    bench.inference.register(bench.memory)
    (told,) = caplog.records
    assert told.__dict__["fields"]["error"] == "the driver says no"
