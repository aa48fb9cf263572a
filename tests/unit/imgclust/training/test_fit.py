"""From embeddings to a model: split, parameters, figures, refusals."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from imgclust.errors import FitError
from imgclust.model.drift import PARTS, Reference, compare
from imgclust.support import machine, progress
from imgclust.support.progress import Progress, Stages
from imgclust.training.fit import fit
from imgclust.training.parameters import Parameters
from imgclust.training.split import split_rows
from tests.support import fitted


def test_groups_are_found_and_held_out_rows_join_them() -> None:
    """Six separate groups become clusters; held-out rows are given the cluster of their own group."""
    result = fitted.fitted()
    _, group = fitted.grouped()
    inside = result.labels >= 0
    assert inside.mean() > 0.8
    assert adjusted_mutual_info_score(group[inside], result.labels[inside]) > 0.9
    test = result.split.test
    np.testing.assert_array_equal(result.labels[test], result.test.labels)
    sure = result.test.labels >= 0
    assert adjusted_mutual_info_score(group[test][sure], result.test.labels[sure]) > 0.9


def test_every_row_has_exactly_one_place() -> None:
    """Training, held-out, other rows and duplicates make up all rows, each once."""
    result = fitted.fitted()
    parts = [result.split.train, result.split.test, result.split.rest, result.duplicates.duplicate]
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))


def test_figures_add_up() -> None:
    """The figures are those of the labels that the fit returns."""
    result = fitted.fitted()
    train = result.labels[result.split.train]
    assert result.figures["train"]["other"] == pytest.approx((train < 0).mean(), abs=1e-4)
    assert result.figures["train"]["clusters"] == train.max() + 1 == len(result.model.clusters)
    assert result.figures["test"]["images"] == len(result.split.test)
    assert [c.size for c in result.model.clusters] == np.bincount(train[train >= 0]).tolist()
    assert 0.5 < result.figures["predicted_as_fitted"]["share"] <= 1


def test_the_same_fit_twice_is_the_same_model() -> None:
    """Equal input, parameters and seed give a model of equal version: every byte of it is equal."""
    first = fitted.fitted()
    again = fit(fitted.grouped()[0], encoder=fitted.ENCODER, parameters=fitted.SMALL, seed=1)
    assert again.model.version == first.model.version


def test_duplicates_get_the_label_of_their_original() -> None:
    """A copy of a row is left out of the training and labelled like the row it copies."""
    rows, _ = fitted.grouped()
    result = fit(np.concatenate([rows, rows[:7]]), parameters=fitted.SMALL, seed=1)
    assert result.duplicates.duplicate.tolist() == list(range(300, 307))
    np.testing.assert_array_equal(result.labels[300:], result.labels[:7])
    assert result.figures["duplicates"] == {"exact": 0, "near": 7}


def test_what_is_beyond_max_train_is_predicted() -> None:
    """A sample is trained on, and all the others still get a label."""
    rows, group = fitted.grouped()
    result = fit(rows, parameters=fitted.SMALL, max_train=150, seed=1)
    assert (len(result.split.train), len(result.split.rest)) == (150, 90)
    rest = result.labels[result.split.rest]
    assert (rest >= 0).mean() > 0.6
    assert adjusted_mutual_info_score(group[result.split.rest][rest >= 0], rest[rest >= 0]) > 0.9


def test_uploaded_again_is_tagged_alike() -> None:
    """A training image once more, or a copy within the duplicates' cosine, has its label and its place,
    whatever the batch; beyond that cosine nothing is changed."""
    result = fitted.fitted()
    model, train = result.model, result.split.train
    rows = fitted.grouped()[0][train]
    copy = rows + 0.02 * np.random.default_rng(0).normal(size=rows.shape)
    copy /= np.linalg.norm(copy, axis=1, keepdims=True)
    for again in (rows, copy):
        found = model.predict(again)
        near = found.similarities >= 0.98
        assert near.mean() > 0.9
        owner = (again.astype(np.float16).astype(np.float32) @ rows.T).argmax(axis=1)
        np.testing.assert_array_equal(found.labels[near], model.labels_[owner[near]])
        np.testing.assert_array_equal(found.points[near], model.arrays["points"][owner[near]])
        one_by_one = model.predict(again[:9], batch=1)
        np.testing.assert_array_equal(one_by_one.points, found.points[:9])
    free = dict(model.parameters["novelty"])
    assert free.pop("again") == 0.98
    without = dataclasses.replace(model, parameters={**model.parameters, "novelty": free})
    far = fitted.grouped(seed=5, each=9)[0]
    apart = model.predict(far).similarities < 0.98
    assert apart.any()
    np.testing.assert_array_equal(model.predict(far).points[apart], without.predict(far).points[apart])


def test_a_stream_that_repeats_itself_is_steady() -> None:
    """Images of which a third are copies, and then a stream of the same mixture with as many copies: the
    reference knows them, and none of the three indexes is above what chance makes of it."""
    rows, _ = fitted.grouped(each=60)
    rng = np.random.default_rng(3)
    given = np.concatenate([rows, rows[rng.choice(len(rows), len(rows) // 2)]])
    result = fit(given, parameters=fitted.SMALL, seed=1, test_fraction=0.4)
    reference = Reference.of_model(result.model)
    assert reference is not None
    assert reference.tally.images == round(len(result.split.test) * 1.5)
    fresh = np.concatenate([rows[result.split.test], rows[rng.choice(result.split.train, 72)]])
    stream = result.model.predict(fresh[rng.choice(len(fresh), 2000)])
    drift = compare(reference, reference.count(stream))
    assert {drift.verdict(part) for part in PARTS} == {"steady"}


def test_nothing_held_out() -> None:
    """Without a held-out part the novelty threshold comes from the training rows' own neighbours."""
    rows, _ = fitted.grouped()
    result = fit(rows, parameters=fitted.SMALL, test_fraction=0)
    assert len(result.test) == 0
    assert 0 < result.model.parameters["novelty"]["threshold"] < 1


def test_novel_is_what_lies_far_out() -> None:
    """At most 0.1 % of the held-out rows are novel; a direction that no training row has is."""
    result = fitted.fitted()
    assert result.test.novel.mean() <= 0.001
    rows, _ = fitted.grouped()
    outside = np.linalg.svd(rows)[2][-1:]  # the direction that the rows have least of
    assert result.model.predict(outside).novel.all()


def test_split_is_a_function_of_seed() -> None:
    """The same seed holds the same rows out, another seed others; sizes are what was asked for."""
    kept = np.arange(0, 200, 2)
    one = split_rows(kept, test_fraction=0.25, max_train=60, seed=1)
    two = split_rows(kept, test_fraction=0.25, max_train=60, seed=1)
    other = split_rows(kept, test_fraction=0.25, max_train=60, seed=2)
    assert (len(one.test), len(one.train), len(one.rest)) == (25, 60, 15)
    np.testing.assert_array_equal(one.test, two.test)
    assert one.test.tolist() != other.test.tolist()
    assert sorted([*one.test, *one.train, *one.rest]) == kept.tolist()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"test_fraction": 1.0}, "test_fraction must be 0 to 0.9, is 1.0"),
        ({"test_fraction": -0.1}, "test_fraction"),
        ({"parameters": {"n_neighbors": 500}}, "n_neighbors must be 2 to 239"),
        ({"parameters": {"min_samples": 121}}, "min_samples must be 1 to 120"),
        ({"parameters": {"metric": "manhattan"}}, "metric must be cosine or euclidean"),
        ({"parameters": {"max_cluster_share": 0}}, "max_cluster_share must be above 0"),
        ({"parameters": {"refits": 0}}, "refits must be 1 to 100"),
        ({"recipe": "paper"}, "unknown recipe 'paper'"),
        ({"recipe": "article"}, "min_cluster_size must be 2 to 120 for 240 training images, is 1000"),
        ({"parameters": {"neighbours": 5}}, "unknown parameter 'neighbours'"),
        ({"near": 0}, "near"),
        ({"max_train": 0}, "max_train"),
        ({"ids": ["a"]}, "1 ids for 300"),
        ({"ids": ["a"] * 300}, "'a' occurs twice"),
    ],
)
def test_what_cannot_be_fitted_is_refused(arguments: dict, text: str) -> None:
    """Each wrong argument is named with its value before anything is computed."""
    with pytest.raises(FitError, match=text):
        fit(fitted.grouped()[0], **arguments)


@pytest.mark.parametrize("damage", ["nan", "long", "flat", "integers"])
def test_damaged_embeddings_are_refused(damage: str) -> None:
    """Rows that are no unit vectors are refused, and the row is named where there is one."""
    rows = fitted.grouped()[0].copy()
    if damage == "nan":
        rows[17, 3] = np.nan
    if damage == "long":
        rows[17] *= 2
    with pytest.raises(FitError, match="row 17" if damage in ("nan", "long") else "floats"):
        fit({"flat": rows[0], "integers": np.ones((300, 4), np.int64)}.get(damage, rows))


def test_too_few_images() -> None:
    """Fewer than 50 different images are refused with their count; copies do not help."""
    rows, _ = fitted.grouped()
    with pytest.raises(FitError, match=r"49 different images.*at least 50"):
        fit(rows[:49])
    with pytest.raises(FitError, match=r"40 different images \(60 duplicates"):
        fit(np.concatenate([rows[:40], rows[:40], rows[:20]]))


def test_no_cluster() -> None:
    """Rows without any group are refused with the parameters to lower."""
    with pytest.raises(FitError, match=r"no cluster was found among 240 images.*min_cluster_size"):
        fit(fitted.grouped()[0], parameters={**fitted.SMALL, "min_cluster_size": 120, "min_samples": 120})


def test_progress_names_every_stage() -> None:
    """Each stage is told at its start and its end, in order, and its time is kept."""
    told = []
    result = fit(fitted.grouped()[0], parameters=fitted.SMALL, progress=told.append)
    stages = list(dict.fromkeys(p.stage for p in told))
    assert stages == ["duplicates", "umap", "hdbscan", "stability", "predict", "map"] == list(result.seconds)
    for stage in stages:
        reports = [p for p in told if p.stage == stage]
        assert reports[0].done is None
        assert reports[-1].done == 1.0
    assert len([p for p in told if p.stage == "umap" and p.done]) > 1  # UMAP's own bar


def test_a_silent_stage_still_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that cannot say how far it is is told again and again, and never after its end."""
    monkeypatch.setattr(progress, "BEAT_SECONDS", 0.001)
    told: list[Progress] = []
    heard = threading.Event()

    def listen(report: Progress) -> None:
        told.append(report)
        if len(told) == 3:
            heard.set()

    with Stages(listen).stage("hdbscan", "9 images"):
        assert heard.wait(60)
    assert [report.done for report in told[:3]] == [None, None, None]
    assert told[-1].done == 1.0
    count = len(told)
    with pytest.raises(RuntimeError), Stages(listen).stage("umap", "9 images"):
        raise RuntimeError
    assert all(report.stage == "umap" for report in told[count:])


class TestParameters:
    """The defaults are a function of the number of training images alone."""

    def test_the_published_recipe_is_a_preset(self) -> None:
        """`article`: the recipe's neighbours, distance, epochs, sizes and leaf clusters, at any size."""
        p = Parameters.of_recipe("article", 150_000)
        assert (p.n_neighbors, p.min_dist, p.n_epochs, p.n_components) == (70, 0.03, 300, 5)
        assert (p.min_cluster_size, p.min_samples, p.cluster_selection_method) == (1000, 1000, "leaf")
        assert (p.consensus, Parameters.of_recipe("article", 500).consensus) == (0, 0)
        with pytest.raises(FitError, match="unknown recipe 'paper'; there are steady and article"):
            Parameters.of_recipe("paper", 150_000)

    def test_nothing_jumps(self) -> None:
        """One image more changes a size by one at most, and no choice of metric or method at all."""
        for n in range(40, 160_000, 7):
            one, two = Parameters.for_size(n), Parameters.for_size(n + 1)
            for name in ("n_neighbors", "min_cluster_size", "min_samples"):
                assert getattr(two, name) - getattr(one, name) in (0, 1)
            assert (one.metric, one.cluster_selection_method) == (two.metric, two.cluster_selection_method)

    def test_all_sizes_can_be_fitted(self) -> None:
        """Whatever the size, the defaults pass their own check."""
        for n in (40, 50, 100, 999, 1500, 20_000, 99_999, 10**6):
            Parameters.for_size(n).check(n)

    def test_they_grow(self) -> None:
        """More images never mean fewer neighbours or smaller clusters."""
        sizes = [Parameters.for_size(n) for n in range(40, 120_000, 997)]
        for name in ("n_neighbors", "min_cluster_size", "min_samples"):
            values = [getattr(p, name) for p in sizes]
            assert values == sorted(values)
        fits = [p.consensus for p in sizes]
        assert fits == sorted(fits, reverse=True)
        assert (fits[0], max(fits), min(fit for fit in fits if fit), fits[-1]) == (24, 24, 12, 0)

    def test_memory_of_a_container(self, tmp_path: Path) -> None:
        """What a control group leaves: its limit, less what is used, but for cached files; or no limit."""
        (tmp_path / "memory.max").write_text("1000000\n")
        (tmp_path / "memory.current").write_text("700000\n")
        (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 250000\n")
        assert machine._control_group(tmp_path) == 550_000
        (tmp_path / "memory.max").write_text("max\n")
        assert machine._control_group(tmp_path) is None
        assert machine._control_group(tmp_path / "nothing") is None

    def test_memory_of_this_machine(self) -> None:
        """A machine that runs this test has more than 50 MB to spare, and less than 100 TB."""
        there = machine.available_memory()
        assert there is not None
        assert 50e6 < there < 1e14
