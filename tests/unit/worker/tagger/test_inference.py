"""worker.tagger.inference: batches through the encoder and the predictor, and what happens when they fail."""

from __future__ import annotations

import dataclasses
import gc
import json
import threading
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from imgclust.model.parts import Cluster
from imgclust.types import Floats, Pixels, Prediction
from tests.support.fake_encoder import SIDE, FakeEncoder, FakeModel
from tests.support.waiting import wait_for
from worker.tagger.inference import Inference
from worker.tagger.prediction import (
    InferenceOutcome,
    Model,
    ModelInfo,
    Predicted,
    Ready,
    Unencodable,
    rows,
    tag_of,
)
from worker.telemetry.metrics import Metrics
from worker.telemetry.watchdog import EXIT_STALLED, Watchdog, end_within


class Bench:
    """An Inference over made-up slots: slot s holds a picture of value s."""

    def __init__(self, encoder: FakeEncoder, model: FakeModel | None = None, max_batch: int = 8) -> None:
        self.outcomes: list[InferenceOutcome] = []
        self.released: list[int] = []
        self.broken: list[Exception] = []
        self.metrics = Metrics()
        self.inference = Inference(
            encoder, model or FakeModel(), pixels=lambda slot: np.full((SIDE, SIDE, 3), slot, np.uint8),
            release=self.released.extend, on_outcomes=self.outcomes.extend, on_broken=self.broken.append,
            max_batch=max_batch, max_wait=0.005, clock=time.monotonic, metrics=self.metrics,
        )  # fmt: skip

    def run(self, slots: list[int], until: Callable[[], bool]) -> None:
        self.inference.start()
        self.inference.put([Ready(100 + slot, slot) for slot in slots])
        wait_for("what the test is about", until)
        self.inference.stop()


def test_every_picture_comes_back_under_its_token() -> None:
    """Batches of at most eight; each token has its own picture's prediction; all slots are given back."""
    bench = Bench(encoder := FakeEncoder())
    slots = list(range(30))
    bench.run(slots, lambda: len(bench.outcomes) == 30)
    assert {o.token: o.cluster for o in bench.outcomes if isinstance(o, Predicted)} == {
        100 + s: s for s in slots
    }
    assert sorted(bench.released) == slots
    assert max(encoder.batches) <= 8
    assert bench.metrics.value("imgclust_similarity_ratio_count") == 30
    assert bench.metrics.value("imgclust_stage_in_progress", stage="encode") == 0
    assert bench.metrics.value("imgclust_stage_in_progress", stage="predict") == 0


class Held(FakeModel):
    """Says when it begins with its first batch, and waits there; `calls` are the rows of each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def predict(self, embeddings: Floats) -> Prediction:
        self.calls.append(len(embeddings))
        self.begun.set()
        assert self.go_on.wait(60)
        return super().predict(embeddings)


def test_what_waits_for_the_predictor_is_predicted_together() -> None:
    """Up to 256 pictures a call, and batches are never split; each token has its own picture's prediction."""
    bench = Bench(encoder := FakeEncoder(), held := Held(), max_batch=64)
    bench.inference.start()
    bench.inference.put([Ready(1000, 0)])
    assert held.begun.wait(60)
    bench.inference.put([Ready(token, token % 200) for token in range(384)])
    wait_for("five batches to be encoded", lambda: sum(encoder.batches) >= 1 + 5 * 64)
    held.go_on.set()
    wait_for("all to be predicted", lambda: len(bench.outcomes) == 385)
    bench.inference.stop()
    assert held.calls[:2] == [1, 256]
    assert all(rows % 64 == 0 for rows in held.calls[1:])
    assert {o.token: o.cluster for o in bench.outcomes if isinstance(o, Predicted)} == {
        1000: 0, **{token: token % 200 for token in range(384)},
    }  # fmt: skip


def test_a_change_of_model_comes_between_what_waits() -> None:
    """What waited before it is the old model's, what comes after it the new one's."""
    bench, other = Bench(FakeEncoder(), held := Held(), max_batch=64), Held()
    other.go_on.set()
    bench.inference.start()
    bench.inference.put([Ready(1000, 0)])
    assert held.begun.wait(60)
    waiting = bench.inference._encoded
    bench.inference.put([Ready(token, 1) for token in range(128)])
    wait_for("two batches to wait", lambda: len(waiting) == 2)
    change = threading.Thread(target=bench.inference.use, args=(other,))
    change.start()
    wait_for("the change to wait", lambda: len(waiting) == 3)
    bench.inference.put([Ready(token, 2) for token in range(128, 192)])
    wait_for("another batch to wait", lambda: len(waiting) == 4)
    held.go_on.set()
    change.join(60)
    wait_for("all to be predicted", lambda: len(bench.outcomes) == 193)
    bench.inference.stop()
    assert (held.calls, other.calls) == ([1, 128], [64])


def test_one_bad_picture_costs_only_itself() -> None:
    """A batch that fails is halved down to the picture at fault; the others are predicted."""
    bench = Bench(FakeEncoder(bad=frozenset({5})))
    bench.run(list(range(8)), lambda: len(bench.outcomes) == 8)
    (dead,) = [o for o in bench.outcomes if isinstance(o, Unencodable)]
    assert dead.token == 105
    assert "cannot be encoded" in dead.message
    assert {o.token for o in bench.outcomes} == {100 + s for s in range(8)}


def test_the_predictor_is_halved_likewise() -> None:
    """The same for a picture that only the predictor fails on."""
    bench = Bench(FakeEncoder(), FakeModel(bad=frozenset({2})))
    bench.run(list(range(8)), lambda: len(bench.outcomes) == 8)
    assert [o.token for o in bench.outcomes if isinstance(o, Unencodable)] == [102]


def test_out_of_memory_halves_the_batch() -> None:
    """An encoder that can take three at once gets there by halving; nothing is lost."""
    bench = Bench(encoder := FakeEncoder(max_batch=3))
    bench.run(list(range(8)), lambda: len(bench.outcomes) == 8)
    assert all(isinstance(o, Predicted) for o in bench.outcomes)
    assert encoder.batches[0] == 8
    halved = sum(size > 3 for size in encoder.batches)
    assert bench.metrics.value("imgclust_encoder_out_of_memory_total") == halved


class Short:
    """Out of memory so many times, and then not any more: somebody else on the device has it."""

    def __init__(self, times: int) -> None:
        self.times = times

    def look(self) -> None:
        if self.times:
            self.times -= 1
            raise RuntimeError("CUDA out of memory: can't allocate memory")


@pytest.mark.parametrize("stage", ["encode", "predict"])
def test_out_of_memory_buries_nobody_and_breaks_nothing(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that fails alone for want of memory, while a grey one passes, is tried until it passes."""
    monkeypatch.setattr("worker.tagger.out_of_memory.MEMORY_WAIT", 0.001)
    short = Short(12)

    class Encoder(FakeEncoder):
        def encode(self, pixels: Pixels) -> Floats:
            if stage == "encode" and (pixels != 128).any():
                short.look()
            return super().encode(pixels)

    class Model(FakeModel):
        def predict(self, embeddings: Floats) -> Prediction:
            if stage == "predict":
                short.look()
            return super().predict(embeddings)

    bench = Bench(Encoder(), Model())
    bench.run(list(range(4)), lambda: len(bench.outcomes) == 4)
    assert all(isinstance(o, Predicted) for o in bench.outcomes)
    assert bench.broken == []
    assert bench.metrics.value("imgclust_encoder_out_of_memory_total") == 12


def test_a_worker_that_waits_for_memory_stops_when_it_is_told_to() -> None:
    """The image is left to the next worker."""
    short = Short(10**9)

    class Encoder(FakeEncoder):
        def encode(self, pixels: Pixels) -> Floats:
            short.look()
            return super().encode(pixels)

    bench = Bench(Encoder())
    memory = "imgclust_encoder_out_of_memory_total"
    bench.run([1], lambda: (bench.metrics.value(memory) or 0) >= 1)
    assert bench.outcomes == []
    assert bench.broken == []


def test_time_at_work_is_counted() -> None:
    """Busy seconds are those of the encoder's and the predictor's calls; each batch's wait is observed."""

    class Slow(FakeEncoder):
        def encode(self, pixels: Pixels) -> Floats:
            time.sleep(0.05)
            return super().encode(pixels)

    bench = Bench(encoder := Slow())
    bench.run(list(range(16)), lambda: len(bench.outcomes) == 16)
    busy = bench.metrics.value("imgclust_stage_busy_seconds_total", stage="encode")
    assert busy >= 0.05 * len(encoder.batches)
    assert 0 < bench.metrics.value("imgclust_stage_busy_seconds_total", stage="predict") < busy
    assert bench.metrics.value("imgclust_batch_wait_seconds_count") == len(encoder.batches)


def test_a_broken_device_blames_no_picture() -> None:
    """When a grey picture fails too it is the device: no dead letters, and the worker is told. Both stages
    have ended then."""
    bench = Bench(FakeEncoder(broken=True))
    bench.run([1, 2], lambda: bool(bench.broken))
    assert not any(thread.is_alive() for thread in bench.inference._threads)
    assert bench.outcomes == []
    assert "device lost" in str(bench.broken[0])


def test_arrays_become_rows() -> None:
    """Padding leaves the candidates, probabilities stay within 0..1 and are plain Python numbers."""
    prediction = FakeModel().predict(FakeEncoder().encode(np.full((1, SIDE, SIDE, 3), 3, np.uint8)))
    maker = ModelInfo.of(FakeModel())
    (row,) = rows(maker, [9], prediction)
    assert row == Predicted(maker, 9, 3, 0.5, ((3, 0.5), (7, 0.25)), True)
    assert type(row.cluster) is int  # type: ignore[union-attr]
    assert type(row.probability) is float  # type: ignore[union-attr]


def test_a_tag_names_the_group_of_its_cluster() -> None:
    """Of a model of two levels; where the cluster is in none, the field is not there."""
    clusters = (Cluster(1, "dogs", 9, group=2), Cluster(3, None, 9))
    model = cast(Model, SimpleNamespace(version="m", taxonomy="t", clusters=clusters))
    tags = [
        tag_of(Predicted(ModelInfo.of(model), 0, cluster, 0.5, (), False), id="a", url=None, uploaded_at=0,
               tagged_at=0, attributes={})
        for cluster in (1, 3, -1)
    ]  # fmt: skip
    assert [tag.group for tag in tags] == [2, None, None]
    assert [json.loads(tag.to_json()).get("group", "absent") for tag in tags] == [2, "absent", "absent"]


@pytest.mark.parametrize("assigned", [True, False])
def test_a_tag_says_what_was_assigned(assigned: bool) -> None:
    """With the candidate's score as its probability; nothing is said of other images."""
    prediction = FakeModel().predict(FakeEncoder().encode(np.full((1, SIDE, SIDE, 3), 3, np.uint8)))
    prediction = dataclasses.replace(prediction, assigned=np.array([assigned]))
    (row,) = rows(ModelInfo.of(FakeModel()), [9], prediction)
    assert isinstance(row, Predicted)
    tag = tag_of(row, id="a", url=None, uploaded_at=0, tagged_at=0, attributes={})
    written = json.loads(tag.to_json())
    assert written.get("assigned", False) is assigned
    assert ("assigned" in written) is assigned


class Other(FakeModel):
    """Another model: one cluster higher."""

    version = taxonomy = "ba9876543210"

    def predict(self, embeddings: Floats) -> Prediction:
        prediction = super().predict(embeddings)
        return dataclasses.replace(prediction, labels=prediction.labels + 1)


def test_models_change_between_two_batches() -> None:
    """While pictures stream through, two models take turns: all of one batch are of one model, each outcome
    names the model whose answer it has, none is lost or said twice, and what was put after a change has been
    made is of the new model. A model that is gone is no longer held."""
    models = [FakeModel(), Other()]
    batches: list[list[InferenceOutcome]] = []
    bench = Bench(FakeEncoder())
    bench.inference._on_outcomes = batches.append
    bench.inference.start()
    for turn in range(20):
        bench.inference.put([Ready(1000 * turn + slot, slot) for slot in range(25)])
        model = models[(turn + 1) % 2]
        bench.inference.use(model)
        assert bench.inference.maker.version == model.version
        bench.inference.put([Ready(1000 * turn + slot, slot) for slot in range(25, 30)])
        wait_for("all outcomes", lambda: sum(map(len, batches)) >= 30 * (turn + 1))  # noqa: B023
        late = [o for batch in batches for o in batch if 1000 * turn + 25 <= o.token < 1000 * (turn + 1)]
        assert {o.maker.version for o in late if isinstance(o, Predicted)} == {model.version}
    bench.inference.stop()
    found = [o for batch in batches for o in batch if isinstance(o, Predicted)]
    assert sorted(o.token for o in found) == [1000 * turn + slot for turn in range(20) for slot in range(30)]
    for batch in batches:
        assert len({o.maker.version for o in batch if isinstance(o, Predicted)}) == 1
    for outcome in found:
        plus = outcome.maker.version == Other.version
        assert outcome.cluster == outcome.token % 1000 + plus
    gone = weakref.ref(models[1])
    models.clear()
    gc.collect()
    assert gone() is None


def test_a_change_waits_for_nobody_who_has_left() -> None:
    """Asked of an inference that is stopped, it returns: a worker that drains while a model loads ends."""
    bench = Bench(FakeEncoder())
    bench.inference.start()
    bench.inference.stop()
    asking = threading.Thread(target=bench.inference.use, args=(Other(),))
    asking.start()
    asking.join(60)
    assert not asking.is_alive()


def test_a_shadow_is_compared_and_costs_no_tag() -> None:
    """A second model predicts the same embeddings: the outcomes are the live model's alone, and the report
    says how far the two agree. One that fails, or is too slow, is counted and holds nobody up."""

    class Half(Other):
        def predict(self, embeddings: Floats) -> Prediction:
            prediction = FakeModel.predict(self, embeddings)
            odd = prediction.labels % 2 == 1
            return dataclasses.replace(prediction, labels=np.where(odd, -1, prediction.labels))

    bench = Bench(FakeEncoder())
    bench.inference.start()
    bench.inference.use_shadow(Half())
    for start in range(0, 32, 8):
        bench.inference.put([Ready(100 + slot, slot) for slot in range(start, start + 8)])
        shadow, seen = bench.inference.shadow, start + 8
        wait_for("the shadow sees it", lambda: (shadow.report() or {}).get("images") == seen)  # noqa: B023
    assert bench.inference.shadow.report() == {
        "version": Other.version, "images": 32, "agreement": 0.5, "other": 0.5
    }  # fmt: skip
    assert bench.metrics.value("imgclust_shadow_agreement_ratio") == 0.5
    assert {o.cluster for o in bench.outcomes if isinstance(o, Predicted)} == set(range(32))

    bench.inference.use_shadow(FakeModel(bad=frozenset({40})))
    bench.inference.put([Ready(140, 40)])
    wait_for("the failure is counted", lambda: bench.metrics.value("imgclust_shadow_skipped_total"))

    release = threading.Event()

    class Stuck(Other):
        def predict(self, embeddings: Floats) -> Prediction:
            release.wait(20)
            return super().predict(embeddings)

    bench.inference.use_shadow(Stuck())
    for slot in range(50, 60):
        bench.inference.put([Ready(100 + slot, slot)])
        tagged = 33 + slot - 49
        wait_for("a tag that waits for no shadow", lambda: len(bench.outcomes) >= tagged)  # noqa: B023
    assert bench.metrics.value("imgclust_shadow_skipped_total") == 1 + 8
    release.set()
    bench.inference.use_shadow(None)
    assert bench.inference.shadow.report() is None
    assert np.isnan(bench.metrics.value("imgclust_shadow_agreement_ratio") or 0)
    bench.inference.stop()


def test_a_busy_stage_is_seen_by_the_watchdog() -> None:
    """A batch that never returns shows as seconds without progress; an idle stage does not show at all."""
    release = threading.Event()

    class Stuck(FakeEncoder):
        def encode(self, pixels: Pixels) -> Floats:
            release.wait(20)
            return super().encode(pixels)

    bench = Bench(Stuck())
    assert bench.inference.stalled_for() == {}
    bench.inference.start()
    bench.inference.put([Ready(1, 1)])
    wait_for("the stage is busy", bench.inference.stalled_for)
    assert set(bench.inference.stalled_for()) == {"encode"}
    release.set()
    bench.inference.stop()


@pytest.mark.parametrize(("seconds", "ends"), [(119.0, []), (121.0, [EXIT_STALLED])])
def test_the_watchdog_ends_the_process(
    seconds: float, ends: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    """Beyond the limit: exit code 4, with what each thread was doing on stderr; within it: nothing."""
    ended: list[int] = []
    assert Watchdog(120.0, lambda: {"encode": seconds}, ended.append).look() is bool(ends)
    assert ended == ends
    assert ("most recent call first" in capfd.readouterr().err) is bool(ends)


def test_a_process_that_does_not_get_away_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    """With the exit code that it would have had, and what each thread was doing on stderr; not if it went."""
    codes: list[int] = []
    end_within(0.01, 0, codes.append).join(60)
    assert codes == [0]
    assert "test_a_process_that_does_not_get_away" in capfd.readouterr().err
    gone = end_within(60.0, 0, codes.append)
    gone.cancel()
    gone.join(60)
    assert codes == [0]
