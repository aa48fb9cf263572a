"""worker.tagger.encode_ahead, in `Inference`: pictures stay where they are until the device has read them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.types import Floats, Pixels
from tests.support.fake_encoder import SIDE, FakeEncoder, FakeModel
from tests.support.waiting import wait_for
from worker.tagger.encode_ahead import Batch, EncodeAhead
from worker.tagger.inference import Inference
from worker.tagger.prediction import InferenceOutcome, Predicted, Ready, Unencodable
from worker.telemetry.metrics import Metrics

SLOTS = 16


class AheadEncoder(FakeEncoder):
    """Looks at its pictures when they are taken, not when they are put: as late as a device may.

    Attributes:
        most: pictures in a batch.
        missing: so many batches find no memory.
        deepest: most batches that were under way at once.
    """

    def __init__(self, most: int = 4, bad: frozenset[int] = frozenset(), missing: int = 0) -> None:
        super().__init__(bad=bad)
        self.most, self.missing = most, missing
        self.deepest = 0
        self.registered: Pixels | None = None
        self._under_way: deque[Sequence[Pixels]] = deque()

    @property
    def full(self) -> bool:
        return len(self._under_way) == 2

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def put(self, pictures: Sequence[Pixels]) -> None:
        assert len(pictures) <= self.most
        assert not self.full
        if self.missing:
            self.missing -= 1
            raise MemoryError("out of memory")
        self._under_way.append(pictures)
        self.deepest = max(self.deepest, len(self._under_way))

    def take(self) -> Floats:
        return super().encode(np.stack(self._under_way.popleft()))

    def encode(self, pixels: Pixels) -> Floats:
        assert not self._under_way, "nothing else is asked of it meanwhile"
        return super().encode(pixels)

    def register(self, memory: Pixels) -> str | None:
        self.registered = memory
        return None

    def unregister(self) -> None:
        self.registered = None


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


@settings(deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 150), max_size=6), max_size=12),
    bad=st.sets(st.integers(0, 150)),
    most=st.integers(1, 6),
)
def test_every_picture_ends_once(batches: list[list[int]], bad: set[int], most: int) -> None:
    """Whatever comes and whatever fails, each picture is encoded or handed over to be encoded alone, from a
    slot that nobody has written to meanwhile."""
    pictures = [value for batch in batches for value in batch]
    memory = np.array(pictures, np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8)
    tokens = iter(range(len(pictures)))
    waiting: list[Batch | None] = [[Ready(t, t) for _, t in zip(batch, tokens)] for batch in batches]  # noqa: B905
    waiting.append(None)
    encoder = AheadEncoder(most, frozenset(bad))
    done: dict[int, float] = {}

    def alone(batch: Batch) -> None:
        assert not encoder.under_way
        for item in batch:
            assert item.token not in done
            done[item.token] = float(memory[item.slot].mean())
            memory[item.slot] = 255

    def encoded(batch: Batch, rows: Floats, _: float) -> None:
        for item, row in zip(batch, FakeModel().predict(rows).labels.tolist(), strict=True):
            assert item.token not in done
            done[item.token] = row

    def release(slots: list[int]) -> None:
        memory[slots] = 255

    EncodeAhead(
        encoder, pixels=lambda slot: memory[slot], next_batch=lambda _: waiting.pop(0), encoded=encoded,
        release=release, alone=alone, failed=lambda _: None, at_work=lambda _: None, clock=lambda: 0.0,
    ).run()  # fmt: skip
    assert done == dict(enumerate(pictures))


def test_memory_that_cannot_be_registered_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The worker goes on with it, more slowly."""

    class Refusing(AheadEncoder):
        def register(self, memory: Pixels) -> str | None:
            return "the driver says no"

    bench = Bench(Refusing())
    bench.inference.register(bench.memory)
    (told,) = caplog.records
    assert told.__dict__["fields"]["error"] == "the driver says no"
