"""A worker changes over to a folder that was edited by hand: the next tags show the edits."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from imgclust.editing.thresholds import from_examples
from imgclust.model.model import ClusterModel
from imgclust.types import Floats, Pixels
from tests.support import fitted
from tests.support.waiting import wait_for
from worker.messages.models import Assignment, ModelRef
from worker.messages.tag import Tag
from worker.tagger.inference import Inference
from worker.tagger.model_switch import ModelChanger
from worker.tagger.prediction import InferenceOutcome, Predicted, Ready, tag_of
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics

SIDE = fitted.ENCODER.preprocessing.size


class RowEncoder:
    """The picture in slot s has brightness s, and row s as its embedding."""

    identity = fitted.ENCODER

    def __init__(self, rows: Floats) -> None:
        self.rows = rows

    def encode(self, pixels: Pixels) -> Floats:
        return self.rows[pixels[:, 0, 0, 0]]


class Worker:
    """The stages behind the decoders, and what changes their model; without Kafka."""

    def __init__(self, rows: Floats, model: ClusterModel, models: Path) -> None:
        self.outcomes: list[InferenceOutcome] = []
        self.count = len(rows)
        self.metrics = Metrics()
        self.inference = Inference(
            RowEncoder(rows), model, pixels=lambda slot: np.full((SIDE, SIDE, 3), slot, np.uint8),
            release=lambda _: None, on_outcomes=self.outcomes.extend, on_broken=lambda _: None,
            max_batch=8, max_wait=0.005, clock=time.monotonic, metrics=self.metrics,
        )  # fmt: skip
        self.changer = ModelChanger(
            models, fitted.ENCODER, model, self.inference, metrics=self.metrics, health=Health(),
            wall_ms=lambda: 0,
        )  # fmt: skip

    def tags(self) -> list[Tag]:
        """Of all pictures, in their order, with the model that is at work now."""
        self.outcomes.clear()
        self.inference.put([Ready(slot, slot) for slot in range(self.count)])
        wait_for("all are predicted", lambda: len(self.outcomes) == self.count)
        found = sorted((o for o in self.outcomes if isinstance(o, Predicted)), key=lambda o: o.token)
        return [
            tag_of(o, id=f"{o.token}", url=None, uploaded_at=0, tagged_at=0, attributes={}) for o in found
        ]


def edited(model: ClusterModel, examples: Floats) -> ClusterModel:
    """0 has a name, 2 is in 1, and there is a class."""
    changed = model.edit(who="anna").rename({0: "food"}).edit().merge(1, 2)
    rule = from_examples(examples, model.arrays["embeddings"].astype(np.float32), 0.95)
    return changed.edit().add_class("receipts", rule)


def test_the_next_tags_show_the_edits(tmp_path: Path) -> None:
    """Names, merged numbers and classes, under the version of the edited folder and the same taxonomy; and
    back again."""
    model = fitted.fitted().model
    rows, group = fitted.grouped(seed=4, groups=8, each=12)
    changed = edited(model, fitted.grouped(seed=1, groups=8, each=15)[0][_kind(6, 1)])
    for name, one in (("first", model), ("edited", changed)):
        one.save(tmp_path / name)
    worker = Worker(rows[group < 7], model, tmp_path)
    worker.inference.start()
    try:
        before = worker.tags()
        assert worker.changer.settle({"live": Assignment(_ref(changed, "edited"), 0)})
        after = worker.tags()
        assert worker.changer.settle({"live": Assignment(_ref(model, "first"), 0)})
        again = worker.tags()
    finally:
        worker.inference.stop()
    assert again == before
    assert {tag.model for tag in after} == {changed.version} != {tag.model for tag in before}
    assert {tag.taxonomy for tag in before + after} == {model.taxonomy}
    assert {"food"} == {tag.name for tag in after if tag.cluster == 0}
    moves = {(old.cluster, new.cluster) for old, new in zip(before, after, strict=True) if not new.from_class}
    assert (2, 1) in moves
    assert all(new == (1 if old == 2 else old) for old, new in moves)
    assert {tag.cluster for tag in after if tag.from_class} == {6}
    assert {tag.name for tag in after if tag.from_class} == {"receipts"}
    kinds = group[group < 7]
    assert np.mean([tag.from_class for tag, kind in zip(after, kinds, strict=True) if kind == 6]) > 0.7
    assert not any(tag.from_class for tag in before)
    assert b"from_class" not in before[0].to_json()
    info = worker.metrics.value(
        "imgclust_model_info", version=model.version, taxonomy=model.taxonomy, encoder="test"
    )
    assert info == 1


def _kind(kind: int, seed: int) -> np.ndarray:
    return np.asarray(fitted.grouped(seed=seed, groups=8, each=15)[1] == kind)


def _ref(model: ClusterModel, folder: str) -> ModelRef:
    return ModelRef(model.version, model.taxonomy, folder)
