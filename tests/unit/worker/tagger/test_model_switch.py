"""worker.messages.models, worker.tagger.model_switch, worker.tagger.shadow: what the models topic says, and
what becomes of it."""

from __future__ import annotations

import dataclasses
import math
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import ModelError
from imgclust.model.model import ClusterModel
from imgclust.types import EncoderIdentity
from tests.support import fitted
from worker.errors import StartError
from worker.messages.models import (
    Assignment,
    ModelRef,
    ModelsState,
    WorkerReport,
    read_assignment,
    read_report,
    write_assignment,
    write_report,
)
from worker.tagger.model_loading import load_named, warm
from worker.tagger.model_switch import TRY_AGAIN, ModelChanger
from worker.tagger.models_topic import worker_name
from worker.tagger.shadow import agreement
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics

STRANGER = EncoderIdentity.from_dict({**fitted.ENCODER.to_dict(), "weights": "1" * 64})

versions = st.integers(0, 16**12 - 1).map("{:012x}".format)
named = st.builds(
    ModelRef,
    version=versions,
    taxonomy=versions,
    folder=st.text(f"{string.ascii_letters}{string.digits}_-.", min_size=1, max_size=21).filter(
        lambda name: name[0] != "."
    ),
)
times = st.integers(0, 2**53)
assignments = st.builds(Assignment, model=named, at=times, before=st.none() | named)
reports = st.builds(
    WorkerReport,
    version=st.text(max_size=12),
    taxonomy=st.text(max_size=12),
    since=times,
    shadow=st.none() | st.fixed_dictionaries({"version": st.text(max_size=12), "images": times}),
    refused=st.dictionaries(st.sampled_from(["live", "shadow"]), st.text(max_size=50)),
    at=times,
)


@given(assignments, reports)
def test_what_is_written_is_read(assignment: Assignment, report: WorkerReport) -> None:
    """An assignment and a report come back from their records as they were."""
    assert read_assignment(write_assignment(assignment)) == assignment
    assert read_report(write_report(report)) == report


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["schema", "version", "taxonomy", "folder", "set_at", "before", "since", "shadow", "refused", "at"]
    ), inner, max_size=10),
    max_leaves=20,
).map(lambda value: orjson.dumps(value, default=str) if not _too_large(value) else b""),
    st.sampled_from([b"live", b"shadow", b"worker/x", b"\xff", b"else", None]))  # fmt: skip
def test_nothing_in_the_topic_disturbs(value: bytes, key: bytes | None) -> None:
    """Whatever a record holds, it is read or passed over, and what was wanted before is still wanted."""
    state = ModelsState()
    assignment = Assignment(ModelRef("0" * 12, "0" * 12, "first"), 1)
    state.take(b"live", write_assignment(assignment), 0)
    state.take(key, value, 1)
    assert state.strange in ([], [1])
    if state.strange:
        assert state.assignments == {"live": assignment}


def _too_large(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return True
    return False


@pytest.mark.parametrize(
    "folder", ["../other", "/etc", ".", "..", ".hidden", "a/b", "", "x" * 101, "a\n", None, 3]
)
def test_a_record_names_a_folder_and_no_path(folder: object) -> None:
    """What the topic names stays within the folder of models."""
    assignment = orjson.loads(write_assignment(Assignment(ModelRef("0" * 12, "0" * 12, "good"), 1)))
    with pytest.raises(ValueError, match="has not the form"):
        read_assignment(orjson.dumps({**assignment, "folder": folder}))


def test_the_book_keeps_the_newest_of_each_key() -> None:
    """The last record of a key counts, and a null takes it back."""
    state = ModelsState()
    for n in range(3):
        state.take(b"live", write_assignment(Assignment(ModelRef(f"{n:012x}", "0" * 12, "f"), n)), n)
        state.take(b"shadow", write_assignment(Assignment(ModelRef(f"{n + 5:012x}", "0" * 12, "f"), n)), n)
        state.take(b"worker/a", write_report(WorkerReport("v", "t", 0, None, {}, n)), n)
    assert (state.assignments["live"].at, state.assignments["shadow"].at, state.reports["a"].at) == (2, 2, 2)
    state.take(b"shadow", None, 9)
    state.take(b"worker/a", None, 10)
    assert (set(state.assignments), state.reports, state.strange) == ({"live"}, {}, [])


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────


def saved(root: Path, name: str, model: ClusterModel) -> ModelRef:
    model.save(root / name)
    return ModelRef(model.version, model.taxonomy, name)


def test_what_is_loaded_is_what_is_named(tmp_path: Path) -> None:
    """The named version in the named folder is loaded; a missing or damaged folder, another model in it, and
    one of another encoder are refused with the reason."""
    model = fitted.fitted().model
    first = saved(tmp_path, "first", model)
    assert load_named(tmp_path, first, fitted.ENCODER).version == model.version
    for wrong, match in (
        (dataclasses.replace(first, folder="none"), "there is no folder 'none'"),
        (dataclasses.replace(first, version="0" * 12), "holds model .*, the models topic names 000000000000"),
    ):
        with pytest.raises(StartError, match=match):
            load_named(tmp_path, wrong, fitted.ENCODER)
    with pytest.raises(StartError, match="a new encoder needs new workers"):
        load_named(tmp_path, first, STRANGER)
    (tmp_path / "first" / "clusters.json").write_text("{}")
    with pytest.raises(ModelError, match=r"clusters\.json"):
        load_named(tmp_path, first, fitted.ENCODER)


# ── changing ─────────────────────────────────────────────────────────────────────────────────────────────


class FakeInference:
    """Takes what it is given at once."""

    def __init__(self, model: Any) -> None:
        self.use(model)
        self.shadow_model: Any = None
        self.shadow = SimpleNamespace(report=lambda: None)

    def use(self, model: Any) -> None:
        self.maker = SimpleNamespace(version=model.version, taxonomy=model.taxonomy)

    def use_shadow(self, model: Any) -> None:
        self.shadow_model = model


class Bench:
    def __init__(self, root: Path, first: ClusterModel) -> None:
        self.now = 0.0
        self.loads: Counter[str] = Counter()
        self.inference = FakeInference(first)
        self.metrics, self.health = Metrics(), Health()
        self.changer = ModelChanger(
            root, fitted.ENCODER, first, self.inference,  # type: ignore[arg-type]
            metrics=self.metrics, health=self.health, clock=lambda: self.now,
            wall_ms=lambda: int(self.now * 1000), load=self.load,
        )  # fmt: skip

    def load(self, root: Path, model: ModelRef, encoder: EncoderIdentity | None) -> ClusterModel:
        self.loads[model.version] += 1
        return load_named(root, model, encoder)

    def want(self, live: ModelRef | None = None, shadow: ModelRef | None = None) -> bool:
        found: dict[Any, Assignment] = {}
        for role, model in (("live", live), ("shadow", shadow)):
            if model is not None:
                found[role] = Assignment(model, 0)
        return self.changer.settle(found)

    def changes(self, outcome: str) -> float | None:
        return self.metrics.value("imgclust_model_changes_total", outcome=outcome)


@pytest.fixture
def bench(tmp_path: Path) -> Callable[[], tuple[Bench, ModelRef, ModelRef]]:
    def make() -> tuple[Bench, ModelRef, ModelRef]:
        model = fitted.fitted().model
        other = model.renamed([f"renamed {c.id}" for c in model.clusters])
        return Bench(tmp_path, model), saved(tmp_path, "first", model), saved(tmp_path, "second", other)

    return make


def test_what_is_wanted_is_used_once(bench: Callable[[], tuple[Bench, ModelRef, ModelRef]]) -> None:
    """A new version is loaded once and taken into use; asked again, nothing is done; back likewise. Metrics
    and report name the model at work, and since when."""
    b, first, second = bench()
    assert not b.want(first)
    b.now = 5.0
    assert b.want(second)
    assert not b.want(second)
    assert (b.loads, b.inference.maker.version) == ({second.version: 1}, second.version)
    assert b.changer.report() == WorkerReport(second.version, first.taxonomy, 5000, None, {}, 5000)
    assert b.metrics.value(
        "imgclust_model_info", version=second.version, taxonomy=first.taxonomy, encoder="test"
    ) == 1  # fmt: skip
    assert b.want(first)
    assert (b.inference.maker.version, b.changes("changed")) == (first.version, 2)
    assert not b.want(None)  # no assignment any more: what is at work goes on
    assert b.inference.maker.version == first.version


def test_a_model_that_cannot_be_used_changes_nothing(
    bench: Callable[[], tuple[Bench, ModelRef, ModelRef]], tmp_path: Path
) -> None:
    """It is said in the metrics, the report and at /readyz, which stays good; it is tried again after a while
    and not before; once it can be loaded it is used and the error is gone."""
    b, first, second = bench()
    late = dataclasses.replace(second, folder="late")
    assert b.want(late)
    assert b.inference.maker.version == first.version
    assert b.metrics.value("imgclust_model_refused", role="live") == 1
    assert "there is no folder 'late'" in b.changer.report().refused["live"]
    b.health.set("encoder", True)
    ready, told = b.health.ready()
    assert ready
    assert "there is no folder 'late'" in told["conditions"]["model"]["reason"]
    assert not b.want(late)
    assert b.loads[second.version] == 1
    b.now = TRY_AGAIN + 1
    assert not b.want(late)  # the same reason again is no news
    assert (b.loads[second.version], b.changes("refused")) == (2, 1)
    (tmp_path / "second").rename(tmp_path / "late")
    b.now = 2 * TRY_AGAIN + 2
    assert b.want(late)
    assert b.inference.maker.version == second.version
    assert b.metrics.value("imgclust_model_refused", role="live") == 0
    assert b.health.ready()[1]["conditions"]["model"] == {"ok": True}


def test_what_was_refused_may_be_taken_back(bench: Callable[[], tuple[Bench, ModelRef, ModelRef]]) -> None:
    """Naming the model at work again after one that cannot be used ends the error without a load."""
    b, first, second = bench()
    b.want(dataclasses.replace(second, folder="none"))
    assert b.want(first)
    assert (b.changer.report().refused, b.loads[first.version]) == ({}, 0)
    assert b.metrics.value("imgclust_model_refused", role="live") == 0


def test_shadows_come_and_go(bench: Callable[[], tuple[Bench, ModelRef, ModelRef]]) -> None:
    """A shadow is used beside the live model; one that becomes live is its own shadow no more."""
    b, first, second = bench()
    assert b.want(first, second)
    assert b.inference.shadow_model.version == second.version
    assert b.inference.maker.version == first.version
    assert b.want(second, second)
    assert (b.inference.shadow_model, b.inference.maker.version) == (None, second.version)
    assert b.want(second, first)
    assert b.want(second)
    assert b.inference.shadow_model is None


def test_a_warm_model_says_the_same() -> None:
    """Warming predicts the model's own images, in batches of all sizes, and leaves nothing behind."""
    model = fitted.fitted().model
    rows, _ = fitted.grouped(seed=5)
    before = model.predict(rows)
    warm(model)
    assert (model.predict(rows).labels == before.labels).all()


def test_names_of_workers_differ_and_are_plain() -> None:
    """Two names of one process differ; they hold nothing but letters, digits, dots, dashes."""
    first, second = worker_name(), worker_name()
    assert first != second
    assert all(c.isalnum() or c in "._-" for c in first)


# ── agreement ────────────────────────────────────────────────────────────────────────────────────────────

pairs = st.dictionaries(
    st.tuples(st.integers(-1, 6), st.integers(-1, 6)), st.integers(1, 50), min_size=1, max_size=30
)


@given(pairs)
def test_agreement_is_a_share(counts: dict[tuple[int, int], int]) -> None:
    """0 to 1; matched one to one it is never below that of equal numbers, and turning the two round changes
    nothing."""
    for one_taxonomy in (True, False):
        share = agreement(counts, one_taxonomy=one_taxonomy)
        assert 0 <= share <= 1
        turned = {(b, a): n for (a, b), n in counts.items()}
        assert agreement(turned, one_taxonomy=one_taxonomy) == share
    assert agreement(counts, one_taxonomy=False) >= agreement(counts, one_taxonomy=True)


@given(pairs, st.permutations(range(7)))
def test_numbers_of_another_taxonomy_mean_nothing(
    counts: dict[tuple[int, int], int], numbers: list[int]
) -> None:
    """Under other numbers the agreement of two taxonomies is the same; a model agrees with itself in full."""
    again = {(a, -1 if b < 0 else numbers[b]): n for (a, b), n in counts.items()}
    assert agreement(again, one_taxonomy=False) == agreement(counts, one_taxonomy=False)
    itself = {(a, -1 if a < 0 else numbers[a]): n for (a, _), n in counts.items()}
    assert agreement(itself, one_taxonomy=False) == 1


def test_agreement_of_nothing_is_no_number() -> None:
    """Before the first image there is none; "other" agrees with "other" alone."""
    assert math.isnan(agreement({}, one_taxonomy=True))
    assert agreement({(-1, 0): 5, (0, -1): 5, (-1, -1): 10}, one_taxonomy=False) == 0.5
