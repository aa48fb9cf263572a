"""Real fits that continue a taxonomy: numbers go on meaning the same, and everything copes with gaps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hdbscan
import numpy as np
import pytest

from imgclust.errors import FitError, ModelError
from imgclust.model import folder as layout
from imgclust.model.drift import Reference, compare
from imgclust.model.meaning import Births
from imgclust.model.model import ClusterModel
from imgclust.predictor.reference import ReferencePredictor
from imgclust.report.data import from_model
from imgclust.report.drift import read_drift, sheets
from imgclust.report.page import page
from imgclust.report.palette import colours
from imgclust.report.payload import payload
from imgclust.tagging.files import write_rows
from imgclust.tagging.rows import predict_rows
from imgclust.training import continuation
from imgclust.training.fit import FitResult, fit
from tests.support import fitted
from worker.tagger.drift_gauges import DriftWatch
from worker.tagger.prediction import ModelInfo
from worker.tagger.prediction import rows as outcomes
from worker.telemetry.metrics import Metrics

KINDS = 8  # 0 to 5 are those of `fitted`
FIRST, SECOND, THIRD = {0, 1, 2, 3, 4, 5}, {1, 2, 3, 4, 5, 6}, {0, 1, 2, 4, 5, 6, 7}


def pictures(kinds: set[int], seed: int, each: int = fitted.EACH) -> tuple[np.ndarray, np.ndarray]:
    rows, group = fitted.grouped(seed=seed, groups=KINDS, each=each)
    wanted = np.isin(group, list(kinds))
    return rows[wanted], group[wanted]


PHRASES = tuple(f"kind {kind}" for kind in range(KINDS))
VOCABULARY = (PHRASES, np.stack([pictures({k}, 77)[0].mean(axis=0) for k in range(KINDS)]))


def continued(kinds: set[int], seed: int, previous: ClusterModel, **options: Any) -> FitResult:
    rows, _ = pictures(kinds, seed)
    return fit(rows, encoder=fitted.ENCODER, parameters=fitted.SMALL, seed=1, previous=previous, **options)


@cache
def first() -> ClusterModel:
    """Of kinds 0 to 5, named by hand."""
    model = fitted.fitted().model
    return model.renamed([f"by hand {c.id}" for c in model.clusters])


@cache
def second() -> FitResult:
    """Other pictures: kind 0 is gone, kind 6 is new."""
    return continued(SECOND, 31, first(), vocabulary=VOCABULARY)


@cache
def third() -> FitResult:
    """Other pictures again: kind 0 is back, 3 is gone, 7 is new."""
    return continued(THIRD, 32, second().model, vocabulary=VOCABULARY)


def meaning(model: ClusterModel, kinds: set[int]) -> dict[int, int]:
    """Kind → the number of its cluster, by pictures that no model was fitted on; all of one agree."""
    rows, kind = pictures(kinds, seed=41, each=12)
    labels = model.predict(rows).labels
    found = {}
    for k in kinds:
        numbers, counts = np.unique(labels[(kind == k) & (labels >= 0)], return_counts=True)
        assert len(numbers) == 1, f"kind {k} is in clusters {numbers}"
        assert counts.sum() > 6, f"most of kind {k} is in no cluster"
        found[k] = int(numbers[0])
    assert len(set(found.values())) == len(kinds), f"two kinds are one cluster: {found}"
    return found


def test_numbers_mean_the_same_in_every_model() -> None:
    """By ground truth: kinds keep their numbers through three models, a new kind gets a number that was never
    used, and one that vanished never comes back, not even when its pictures do two models later."""
    one, two, three = meaning(first(), FIRST), meaning(second().model, SECOND), meaning(third().model, THIRD)
    assert {k: two[k] for k in (1, 2, 3, 4, 5)} == {k: one[k] for k in (1, 2, 3, 4, 5)}
    assert two[6] == 6
    assert {k: three[k] for k in (1, 2, 4, 5, 6)} == {k: two[k] for k in (1, 2, 4, 5, 6)}
    assert {three[0], three[7]} == {7, 8}
    assert one[0] not in second().model.numbers
    assert not {one[0], one[3]} & set(third().model.numbers.tolist())
    versions = {m.version for m in (first(), second().model, third().model)}
    assert len(versions) == 3
    assert {m.taxonomy for m in (first(), second().model, third().model)} == {fitted.fitted().model.version}


def test_what_happened_is_told() -> None:
    """Kept, new and retired clusters, in the result and in the model's figures."""
    found, one, two = second().continuation, meaning(first(), FIRST), meaning(second().model, SECOND)
    assert found is not None
    assert {c.number for c in found.kept} == {one[k] for k in (1, 2, 3, 4, 5)}
    assert [c.number for c in found.new] == [two[6]]
    assert [(c.number, c.name) for c in found.retired] == [(one[0], f"by hand {one[0]}")]
    assert found.previous == first().version
    assert found.to_dict() == second().model.figures["taxonomy"]
    sizes = {c.id: c.size for c in first().clusters}
    assert all(c.before == sizes[c.number] for c in found.kept)
    assert {c.number: c.size for c in found.clusters} == {c.id: c.size for c in second().model.clusters}


def test_names_stay_and_new_clusters_get_their_own() -> None:
    """A name given by hand stays; a new cluster is named from the vocabulary, or not with `--no-names`; one
    that was nameless can get a name; and no name is there twice."""
    names, two = second().model._names, meaning(second().model, SECOND)
    assert {n for number, n in names.items() if number != two[6]} == {
        f"by hand {two[k]}" for k in range(1, 6)
    }
    assert names[two[6]] == "kind 6"
    nameless = continued(SECOND, 31, first())
    assert nameless.model.name(two[6]) is None
    assert nameless.model.name(two[1]) == f"by hand {two[1]}"
    assert len(set(third().model._names.values())) == len(third().model.clusters)
    model = first().renamed(
        [None if c.id == two[1] else "kind 1" if c.id == two[2] else "x" for c in first().clusters]
    )
    again = continued(SECOND, 31, model, vocabulary=VOCABULARY)
    assert [again.model.name(two[k]) for k in (1, 2)] == ["kind 1", "kind 2"], "a wrong name is found out"
    by_hand = first().edit().rename({two[2]: "kind 1"})
    stays = continued(SECOND, 31, by_hand, vocabulary=VOCABULARY)
    assert stays.model.name(two[2]) == "kind 1"


def test_the_previous_model_may_be_a_folder(tmp_path: Path) -> None:
    """It is read before anything is fitted."""
    with pytest.raises(ModelError, match="nothing"):
        fit(pictures(FIRST, 1)[0], previous=tmp_path / "nothing")
    first().save(tmp_path / "model")
    with pytest.raises(FitError, match="cannot be continued"):
        fit(pictures(FIRST, 1)[0][:, :7], previous=str(tmp_path / "model"), normalize=True)


def test_the_labels_of_the_fit_are_the_models() -> None:
    """Every array of labels of a fit counts clusters as the model does: all rows, held-out ones, the map."""
    result = second()
    train, test = result.split.train, result.split.test
    np.testing.assert_array_equal(result.labels[train], result.model.labels_)
    np.testing.assert_array_equal(result.labels[test], result.test.labels)
    again = result.model.predict(pictures(SECOND, 31)[0][test])
    np.testing.assert_array_equal(again.labels, result.test.labels)
    np.testing.assert_array_equal(again.candidates, result.test.candidates)
    table = result.model.map
    by_id = {str(row): int(result.labels[row]) for row in (*train, *test)}
    assert dict(zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True)) == by_id


def test_the_same_fit_twice_is_the_same_model() -> None:
    """Equal input and equal previous model give a model of equal version."""
    again = continued(SECOND, 31, first(), vocabulary=VOCABULARY)
    assert again.model.version == second().model.version


def test_a_model_against_itself_keeps_every_number() -> None:
    """The same pictures and the same fit: all clusters keep their numbers, and only the taxonomy differs."""
    plain = fitted.fitted().model
    again = fit(fitted.grouped()[0], encoder=fitted.ENCODER, parameters=fitted.SMALL, seed=1, previous=plain)
    assert again.continuation is not None
    assert not again.continuation.new
    assert not again.continuation.retired
    assert sorted(again.model.numbers.tolist()) == plain.numbers.tolist()
    assert again.model.taxonomy == plain.version != again.model.version


def test_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models say of each other what the fit said, whatever numbers they have; of many images a sample is
    asked about, the same each time, and the clusters are found all the same."""
    told: list[float] = []
    arrays, predictor = second().model.arrays, second().model.predictor

    def compared() -> Any:
        return continuation.compare(
            first(), arrays, continuation.ask_both(first(), arrays, predictor, told.append)
        )

    assert compared() == second().continuation
    assert told == sorted(told)
    assert told[-1] == 1
    monkeypatch.setattr(continuation, "COMPARED", 120)
    sampled = compared()
    assert sampled.images == 240
    assert sampled.numbers == second().model.numbers.tolist()
    assert sampled == compared()


# ── what a number means ──────────────────────────────────────────────────────────────────────────────────


def turning(step: int, steps: int, each: int = 36) -> tuple[np.ndarray, np.ndarray]:
    """Kinds 0 to 4 as ever, and kind 5, which turns a little further into something else at each step."""
    rng = np.random.default_rng(100 + step)
    centres = np.random.default_rng(99).normal(size=(7, fitted.DIM))
    angle = np.pi / 2 * step / steps
    centres[5] = np.cos(angle) * centres[5] + np.sin(angle) * centres[6]
    kind = rng.permutation(np.repeat(np.arange(6), each))
    rows = centres[kind] + 0.45 * rng.normal(size=(len(kind), fitted.DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), kind


def test_a_number_does_not_end_up_meaning_something_else() -> None:
    """Cats that become dogs over ten retrainings: each model shares most of the cluster with the one before
    it, and yet the dogs do not have the cats' number; people are warned before. All others keep theirs."""
    model, numbers, warned = None, [], []
    for step in range(11):
        rows, kind = turning(step, 10)
        result = fit(rows, parameters=fitted.SMALL, seed=step, previous=model, thumbnails=False)
        found = {}
        for k in range(6):
            labels = result.labels[(kind == k) & (result.labels >= 0)]
            found[k] = int(np.bincount(labels).argmax())
        numbers.append(found)
        model = result.model
        if result.continuation:
            kept = {c.number: c for c in result.continuation.kept}
            warned += [step] if found[5] in kept and kept[found[5]].has_moved else []
            assert not any(kept[found[k]].has_moved for k in range(5))
    assert all(numbers[-1][k] == numbers[0][k] for k in range(5))
    changes = [step for step in range(1, 11) if numbers[step][5] != numbers[step - 1][5]]
    assert changes, "cats and dogs have one number"
    assert numbers[0][5] not in model.numbers
    assert len({found[5] for found in numbers}) == len(changes) + 1, "a number came back"
    assert warned
    assert warned[0] < changes[0]


def test_pictures_of_a_new_kind_belong_to_no_cluster() -> None:
    """Of a kind that the previous model never saw nearly all are new, of the kinds that it knows hardly any;
    its own pictures never are."""
    rows, kind = pictures(FIRST | {6}, seed=51)
    before = continuation.predicted_before(first(), rows)
    assert before.new[kind == 6].mean() > 0.8
    assert before.new[kind != 6].mean() < 0.1
    assert (before.labels[before.new] == -1).all()
    own = first().arrays["embeddings"].astype(np.float32)
    assert not continuation.predicted_before(first(), own).new.any()


def beside(angle: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Kinds 0 to 5 as in `fitted`, and kind 6 so many degrees beside kind 0."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(7, fitted.DIM))
    lengths = np.linalg.norm(centres, axis=1)
    across = centres[6] - centres[6] @ centres[0] / lengths[0] ** 2 * centres[0]
    across *= lengths[0] / np.linalg.norm(across)
    centres[6] = np.cos(np.radians(angle)) * centres[0] + np.sin(np.radians(angle)) * across
    kind = rng.permutation(np.repeat(np.arange(7), fitted.EACH))
    rows = centres[kind] + 0.45 * rng.normal(size=(len(kind), fitted.DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16).astype(np.float32), kind


def test_a_new_kind_beside_an_old_cluster_gets_its_own_number() -> None:
    """The previous model puts all of it into that cluster."""
    rows, kind = beside(30, seed=2)
    old, new = kind == 0, kind == 6
    number = first().predict(rows[old]).labels[0]
    assert (first().predict(rows[new]).labels == number).mean() > 0.8
    found = fit(rows, encoder=fitted.ENCODER, parameters=fitted.SMALL, seed=2, previous=first(), names=False)
    labels = found.model.predict(rows).labels
    assert (labels[old] == number).mean() > 0.8
    assert (labels[new] >= first().next_number).mean() > 0.8


def test_there_is_no_consensus_unless_it_is_asked_for() -> None:
    assert continuation.as_before(first(), {"min_samples": 4}, None) == {"consensus": 0, "min_samples": 4}
    assert continuation.as_before(first(), {"consensus": 6}, None) == {"consensus": 6}


def test_births_survive_the_folder(tmp_path: Path) -> None:
    """A number's first direction is that of the first model, in the second and when it is loaded again."""
    one = dict(zip(first().numbers.tolist(), Births.of(first().arrays).directions, strict=True))
    second().model.save(tmp_path / "model")
    loaded = ClusterModel.load(tmp_path / "model")
    found = Births.of(loaded.arrays)
    np.testing.assert_array_equal(found.directions, Births.of(second().model.arrays).directions)
    for number, birth in zip(loaded.numbers.tolist(), found.directions, strict=True):
        assert number not in one or (birth == one[number]).all()
    with pytest.raises(ModelError, match="'births' has 5 k, others have 6"):
        layout.check_arrays({**loaded.arrays, "births": found.directions[:-1]})


def test_a_warm_start_leaves_the_parameters_as_they_are() -> None:
    """New images are placed as after a cold start: epochs and learning rate are frozen as asked for."""
    assert dict(second().model.parameters["umap"]) == dict(first().parameters["umap"])


# ── the predictor ────────────────────────────────────────────────────────────────────────────────────────


def test_predictions_are_a_pure_function(tmp_path: Path) -> None:
    """Bit for bit the same for any batch, order and process that loads the folder; every number is one of
    the model's."""
    model = third().model
    model.save(tmp_path / "model")
    rows, _ = pictures(set(range(KINDS)), 51, each=6)
    expected = model.predict(rows)
    order = np.random.default_rng(0).permutation(len(rows))
    for other in (
        ClusterModel.load(tmp_path / "model").predict(rows),
        model.predict(rows, batch=1),
        model.predict(rows, batch=7),
    ):
        for field in dataclasses.fields(expected):
            got, wanted = getattr(other, field.name), getattr(expected, field.name)
            assert got.tobytes() == wanted.tobytes(), field.name
            assert (got.dtype, got.flags.c_contiguous) == (wanted.dtype, True)
    shuffled = model.predict(rows[order])
    for field in dataclasses.fields(expected):
        wanted = getattr(expected, field.name)[order]
        assert getattr(shuffled, field.name).tobytes() == wanted.tobytes(), field.name
    known = {-1, *model.numbers.tolist()}
    assert set(np.unique(expected.labels)) <= known
    assert set(np.unique(expected.candidates)) <= known
    sure = expected.labels >= 0
    assert (expected.candidates[sure, 0] == expected.labels[sure]).all()
    nothing = model.predict(rows[:0])
    assert (nothing.labels.dtype, nothing.candidates.shape) == (np.int32, (0, 3))


def test_labels_are_hdbscans_own() -> None:
    """At the places that it predicts, the labels are those of `approximate_predict`, in the taxonomy's
    numbers."""
    model = third().model
    found = model.predict(pictures(set(range(KINDS)), 52, each=6)[0])
    rebuilt = ReferencePredictor(model.arrays, model.parameters)
    labels, probabilities = hdbscan.approximate_predict(rebuilt.hdbscan, found.points)
    numbers = np.append(model.numbers, -1)
    assert not layout.in_order(model.numbers), "nothing is mapped: the test shows nothing"
    np.testing.assert_array_equal(found.labels, numbers[labels])
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-6)


# ── what looks at clusters ───────────────────────────────────────────────────────────────────────────────


def test_drift_counts_clusters_by_number(tmp_path: Path) -> None:
    """Predictions, tags, the worker's gauges: a mixture of one kind moves the number of that kind."""
    model, three = third().model, meaning(third().model, THIRD)
    rows, _ = pictures({6}, 53)
    reference = Reference.of_model(model)
    assert reference is not None
    again = reference.count(third().test)
    np.testing.assert_array_equal(again.clusters, reference.tally.clusters)
    drift = compare(reference, reference.count(model.predict(rows)))
    assert drift.moved()[0][0] == three[6]
    gone = meaning(first(), FIRST)[3]
    with pytest.raises(ValueError, match=f"has no cluster {gone}"):
        reference.count_tags(np.array([three[6], gone]), np.ones(2, np.float32), 0)
    names = [str(i) for i in range(len(rows))]
    write_rows(predict_rows(model, names, names, rows, [{}] * len(rows)), tmp_path / "tags.csv")
    found = read_drift(model, tmp_path / "tags.csv")
    assert found is not None
    assert list(sheets(found, model._names))[1]["rows"][0][0] == model.name(three[6])
    metrics = Metrics()
    watch = DriftWatch(metrics)
    watch.begin(model)
    watch.add(model.predict(rows))
    assert (metrics.value("imgclust_drift_psi", part="clusters") or 0) > 0.25


def test_the_worker_tags_with_the_taxonomys_numbers() -> None:
    """Outcomes and the counters that start at 0 are those of the model's clusters."""
    model, three = third().model, meaning(third().model, THIRD)
    rows, _ = pictures({7}, 54, each=4)
    said = outcomes(ModelInfo.of(model), range(len(rows)), model.predict(rows))
    assert {one.cluster for one in said} <= {three[7], -1}
    assert {c for one in said for c, _ in one.candidates} <= set(model.numbers.tolist())
    assert {one.maker.names[one.cluster] for one in said if one.cluster >= 0} == {model.name(three[7])}
    metrics = Metrics()
    metrics.set_model(model.version, model.taxonomy, "e", {c.id: c.stability for c in model.clusters})
    assert metrics.value("imgclust_tags_total", cluster=str(three[7])) == 0


def test_the_report_shows_them() -> None:
    """Clusters, map, colours and sizes by number, and what became of the clusters before."""
    model = third().model
    data = from_model(model)
    shown = payload(data)
    assert [(c["id"], c["trained"]) for c in shown["clusters"]] == [(c.id, c.size) for c in model.clusters]
    assert set(np.unique(data.labels)) <= {-1, *model.numbers.tolist()}
    assert len({c["light"] for c in shown["clusters"]}) == min(
        len(model.clusters), len(colours(np.eye(7, 2)))
    )
    titles = [s["title"] for s in shown["sections"]]
    assert titles[:4] == ["Taxonomy", "Clusters kept", "New clusters", "Retired clusters"]
    assert not any(
        "axonomy" in row[0] for s in shown["sections"] if s["title"] == "Training" for row in s["rows"]
    )
    assert {"label": "Kept", "value": "5 of 6", "note": "clusters; 2 new"} in shown["tiles"]
    assert 0 < min(note.probability or 0 for note in data.notes.values() if note.probability) <= 1
    assert "Retired clusters" in page(data)
    damaged = dataclasses.replace(model, figures={**model.figures, "taxonomy": {"kept": 3}})
    with pytest.raises(ModelError, match="how it continues its taxonomy is damaged"):
        from_model(damaged)


# ── the folder ───────────────────────────────────────────────────────────────────────────────────────────


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / layout.MANIFEST).read_bytes()))


def test_numbers_with_gaps_survive_the_folder(tmp_path: Path) -> None:
    """A model that starts a taxonomy does not tell of used numbers; one with gaps keeps both."""
    fitted.fitted().model.save(tmp_path / "first")
    assert "numbers_used" not in manifest(tmp_path / "first")
    second().model.save(tmp_path / "second")
    loaded = ClusterModel.load(tmp_path / "second")
    assert loaded.clusters == second().model.clusters
    np.testing.assert_array_equal(loaded.labels_, second().model.labels_)
    assert (loaded.version, loaded.taxonomy) == (second().model.version, first().taxonomy)
    assert loaded.renamed([None] * len(loaded.clusters)).next_number == second().model.next_number == 7


def test_the_highest_number_is_remembered(tmp_path: Path) -> None:
    """When the cluster of the highest number vanishes, the folder still knows that it was used."""
    kinds = {k for k, number in meaning(first(), FIRST).items() if number != 5}
    fewer = continued(kinds, 33, first()).model
    assert 5 not in fewer.numbers
    fewer.save(tmp_path / "fewer")
    assert manifest(tmp_path / "fewer")["numbers_used"] == 6
    assert ClusterModel.load(tmp_path / "fewer").next_number == 6
    after = continued(kinds | {7}, 34, ClusterModel.load(tmp_path / "fewer")).model
    assert meaning(after, kinds | {7})[7] == 6


def rewritten(
    folder: Path, clusters: Callable[[list[dict]], object], change: Callable[[dict], object]
) -> None:
    """Change a folder as an attacker would: with digests and a version that match."""
    described = json.loads((folder / layout.CLUSTERS).read_bytes())
    clusters(described["clusters"])
    (folder / layout.CLUSTERS).write_text(json.dumps(described))
    changed = manifest(folder)
    changed["files"][layout.CLUSTERS] = hashlib.sha256((folder / layout.CLUSTERS).read_bytes()).hexdigest()
    change(changed)
    changed["version"] = layout.version_of(changed, starts_taxonomy=False)
    (folder / layout.MANIFEST).write_text(json.dumps(changed))


@pytest.mark.parametrize(
    ("clusters", "change", "text"),
    [
        (lambda c: c[0].update(id=c[1]["id"]), lambda m: None, "different numbers"),
        (lambda c: c[0].update(id=-1), lambda m: None, "different numbers"),
        (lambda c: c[0].update(id=2**31), lambda m: None, "different numbers"),
        (lambda c: c[0].update(id=10**30), lambda m: None, "different numbers"),
        (lambda c: c.pop(), lambda m: None, "lists 5 clusters, arrays.safetensors has 6"),
        (lambda c: None, lambda m: m.update(numbers_used=3), "numbers_used"),
        (lambda c: None, lambda m: m.update(numbers_used=2**40), "numbers_used"),
        (lambda c: None, lambda m: m.update(numbers_used="x" * 10**6), "numbers_used"),
        (lambda c: None, lambda m: m.update(numbers_used=True), "numbers_used"),
    ],
)
def test_impossible_numbers_are_refused(
    tmp_path: Path, clusters: Callable, change: Callable, text: str
) -> None:
    """Consistent digests do not make cluster numbers good ones; the error is short."""
    second().model.save(tmp_path / "model")
    rewritten(tmp_path / "model", clusters, change)
    with pytest.raises(ModelError, match=text) as caught:
        ClusterModel.load(tmp_path / "model")
    assert len(str(caught.value)) < 300


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────


def test_another_encoder_cannot_continue() -> None:
    """Embeddings of another space, or width, are refused before anything is computed; both are named."""
    rows = pictures({1, 2, 3}, 35)[0]
    other = dataclasses.replace(fitted.ENCODER, name="other", weights="1" * 64)
    with pytest.raises(
        FitError, match=r"cannot be continued.*from other .*fitted on test .*starts another taxonomy"
    ):
        fit(rows, encoder=other, previous=first())
    narrow = rows[:, :10] / np.linalg.norm(rows[:, :10], axis=1, keepdims=True)
    with pytest.raises(FitError, match=r"takes embeddings of 24 numbers, these have 10"):
        fit(narrow, previous=first())
