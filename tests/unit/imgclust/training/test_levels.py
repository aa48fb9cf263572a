"""Groups above the clusters: chosen from the same tree, numbered and named like clusters."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.editing.log import RenameGroup, describe
from imgclust.errors import FitError, ModelError
from imgclust.model.model import ClusterModel
from imgclust.model.parts import Group
from imgclust.naming.phrases import Phrases
from imgclust.training.antichains import antichain
from imgclust.training.carrying import carry_group_names
from imgclust.training.continuation import Asked, names_by_hand
from imgclust.training.fit import FitResult, fit
from imgclust.training.group_numbers import NumberedGroups
from imgclust.training.hierarchy import Hierarchy, Sample, found_again
from imgclust.training.levels import LARGEST, Level, joined, level_above
from imgclust.training.selection import select, values
from imgclust.training.umap_hdbscan import fit_hdbscan
from tests.support import fitted
from tests.unit.imgclust.training.test_selection import above, hierarchies, parameters


@given(hierarchies(), st.integers(0, 2**31), st.sampled_from([(0, 0), (1, 1), (2, 3), (5, 9)]))
def test_no_other_groups_are_worth_more(hierarchy: Hierarchy, seed: int, count: tuple[int, int]) -> None:
    """Against all sets of nodes above two clusters or more, not of nearly all images, of which none is above
    another."""
    k = len(hierarchy.parent)
    rng = np.random.default_rng(seed)
    clusters = antichain(hierarchy, rng.normal(0.3, 1, size=k))
    value = np.append(-np.inf, rng.normal(size=k - 1))
    ways = [above(hierarchy, node) for node in range(k)]
    held = [{c for c in range(len(clusters)) if node in ways[clusters[c]]} for node in range(k)]
    small = hierarchy.size <= LARGEST * len(hierarchy.node_of)
    candidates = [node for node in range(1, k) if len(held[node]) >= 2 and small[node]]
    sets = [
        nodes
        for size in range(len(candidates) + 1)
        for nodes in itertools.combinations(candidates, size)
        if all(a not in ways[b] and b not in ways[a] for a, b in itertools.combinations(nodes, 2))
    ]
    least, most = count
    within = [nodes for nodes in sets if least <= len(nodes) <= most] if most else sets
    if not within:
        within = [nodes for nodes in sets if len(nodes) == max(map(len, sets))]
    best = max(within, key=lambda nodes: value[list(nodes)].sum())
    p = parameters(levels=2, min_groups=least, max_groups=most)
    found = level_above(hierarchy, clusters, value, np.ones(k), p)
    assert found.of_cluster.dtype == np.int32
    groups = {frozenset(np.flatnonzero(found.of_cluster == g).tolist()) for g in range(len(found.stability))}
    assert groups == {frozenset(held[node]) for node in best}


def places() -> np.ndarray:
    """Nine groups of points, three in each of three places."""
    centres = np.repeat([[0, 0], [60, 0], [0, 60]], 3, axis=0) + np.tile([[0, 0], [6, 0], [0, 6]], (3, 1))
    rng = np.random.default_rng(0)
    return np.concatenate([c + 0.5 * rng.normal(size=(40, 2)) for c in centres]).astype(np.float32)


def test_groups_are_what_lies_together() -> None:
    """Three groups of three clusters; one level has none; so many as are wanted, where there are so many."""
    points = places()
    clusterer = fit_hdbscan(points, parameters())
    assert select(clusterer, points, parameters()).level is None
    for wanted, count in (({}, 3), ({"min_groups": 2, "max_groups": 2}, 2)):
        selection = select(clusterer, points, parameters(levels=2, **wanted))
        assert len(selection.nodes) == 9
        assert selection.level is not None
        assert len(selection.level.stability) == count
        found = [np.flatnonzero(selection.level.of_cluster == g) for g in range(count)]
        assert [len(members) for members in found] == [3] * count


def test_groups_are_what_samples_show_where_one_tree_errs() -> None:
    """A cluster that lies elsewhere in the final tree is in the group where all samples have it; every
    cluster's node holds its points, and no others."""
    points = places()
    moved = points.copy()
    moved[:40], moved[120:160] = points[120:160], points[:40]
    hierarchy, other = (Hierarchy.of(fit_hdbscan(p, parameters())._condensed_tree) for p in (moved, points))
    clusters = select(fit_hdbscan(moved, parameters()), moved, parameters()).nodes - len(points)
    samples = [Sample(other, np.arange(len(points)))] * 2
    above, nodes = joined(hierarchy, clusters, samples)
    for node, cluster in zip(nodes, clusters, strict=True):
        inside = [np.isin(h.node_of, h.under[n].indices) for h, n in ((above, node), (hierarchy, cluster))]
        assert np.array_equal(*inside)
    assert (above.size[nodes] == hierarchy.size[clusters]).all()
    assert (above.mass >= 0).all()
    stability = found_again(above, samples)
    found = level_above(above, nodes, values(above, stability, 0.2), stability, parameters(levels=2))
    place = hierarchy.node_of.reshape(9, 40)[:, 0]
    order = [next(i for i, c in enumerate(clusters) if n in hierarchy.under[c].indices) for n in place]
    of_place = found.of_cluster[order].reshape(3, 3)
    assert all(len(set(row)) == 1 for row in of_place.tolist())
    assert len(set(of_place[:, 0])) == len(found.stability) == 3


def test_groups_of_the_previous_model_are_joined_first() -> None:
    """Clusters that lie far from each other, nearly all of whose images it had in one group."""
    points = places()
    hierarchy = Hierarchy.of(fit_hdbscan(points, parameters())._condensed_tree)
    clusters = select(fit_hdbscan(points, parameters()), points, parameters()).nodes - len(points)
    before = np.full(360, -1)
    before[:38] = before[120:160] = before[240:278] = 0  # the first cluster of each place
    above, nodes = joined(hierarchy, clusters, [Sample(hierarchy, np.arange(360))], before)
    first = [next(n for n in nodes if row in np.flatnonzero(above.node_of == n)) for row in (5, 125, 245)]
    held = [set(nodes) & set(above.under[node].indices) for node in range(len(above.parent))]
    assert set(first) in held


def test_one_cluster_is_in_no_group() -> None:
    """And nothing is joined."""
    hierarchy = Hierarchy.of(fit_hdbscan(places(), parameters())._condensed_tree)
    above, nodes = joined(hierarchy, np.array([1]), [Sample(hierarchy, np.arange(360))])
    assert (nodes.tolist(), above.parent.tolist()) == ([0], [-1])
    found = level_above(above, nodes, np.array([-np.inf]), np.ones(1), parameters(levels=2))
    assert (found.of_cluster.tolist(), len(found.stability)) == ([-1], 0)


def test_groups_need_the_stable_choice() -> None:
    with pytest.raises(FitError, match=r"groups are chosen by how stable they are.*not 'eom'"):
        parameters(levels=2, cluster_selection_method="eom").check(400)


def two_levels(model: ClusterModel) -> ClusterModel:
    """A model of six clusters: its first two are in group 7, the next two in group 2, two in none."""
    groups = (Group(7, "animals", 100, 0.9), Group(2, None, 100))
    of_cluster = [7, 7, 2, 2, None, None]
    clusters = (dataclasses.replace(c, group=g) for c, g in zip(model.clusters, of_cluster, strict=True))
    return dataclasses.replace(
        model, clusters=tuple(clusters), groups=groups, groups_used=9, known_version=None
    )


def test_groups_are_stored_and_survive_edits(tmp_path: Path) -> None:
    """As they were saved; a merged cluster stays in its group, parts are in that of what was split."""
    plain, model = fitted.fitted().model, two_levels(fitted.fitted().model)
    numbers = model.numbers.tolist()
    edited = model.edit().merge(numbers[0], numbers[2]).edit().split(numbers[1], 2)
    for path, one in ((tmp_path / "model", model), (tmp_path / "edited", edited)):
        one.save(path)
        loaded = ClusterModel.load(path)
        assert loaded.version == one.version
        assert (loaded.groups, loaded.next_group) == (model.groups, 9)
        assert loaded.clusters == one.clusters
        assert loaded.level.tolist() == [0, 0, 1, 1, -1, -1, -1]
    found = {cluster.id: cluster.group for cluster in edited.clusters}
    parts = [part.cluster for part in edited.edits[-1].change.parts]  # type: ignore[union-attr]
    assert found == dict.fromkeys([numbers[0], *parts], 7) | {
        numbers[3]: 2,
        numbers[4]: None,
        numbers[5]: None,
    }
    assert (model.group_name(7), model.group_name(2), model.group_name(None)) == ("animals", None, None)
    plain.save(tmp_path / "plain")
    stored = orjson.loads((tmp_path / "plain" / "clusters.json").read_bytes())
    assert set(stored) == {"clusters", "thumbnails"}
    assert not any("group" in cluster for cluster in stored["clusters"])
    assert ClusterModel.load(tmp_path / "plain").next_group == 0


def test_groups_are_renamed_by_hand(tmp_path: Path) -> None:
    """The name is stored and undone like other edits, and no vocabulary takes it away in the next model."""
    model = two_levels(fitted.fitted().model)
    renamed = model.edit().rename_group({2: " meals ", 7: None})
    renamed.save(tmp_path / "model")
    loaded = ClusterModel.load(tmp_path / "model")
    assert (loaded.group_name(2), loaded.group_name(7)) == ("meals", None)
    assert describe(loaded.edits[-1].change) == "group 2 is called 'meals'; group 7 has no name"
    assert [(c.id, c.name, c.size) for c in loaded.clusters] == [
        (c.id, c.name, c.size) for c in model.clusters
    ]
    assert loaded.edit().undo().group_name(7) == "animals"
    assert names_by_hand(loaded) == {"meals"}
    carried = carry_group_names(loaded, model.groups[:1])
    (group,) = model.groups[:1]
    assert [(edit.change, edit.carried) for edit in carried] == [
        (RenameGroup({group.id: loaded.group_name(group.id)}), True)
    ]
    assert carry_group_names(loaded, ()) == []
    with pytest.raises(ModelError, match="no group 3: it has 2, 7"):
        model.edit().rename_group({3: "x"})
    with pytest.raises(ModelError, match="no groups: fit it with groups"):
        fitted.fitted().model.edit().rename_group({3: "x"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": (Group(7, None, 1), Group(7, None, 1))}, "groups must have different numbers"),
        ({"groups": (Group(7, None, 1),)}, "in group 2, which is not listed"),
        ({"groups": (Group(7, None, 1), Group(-2, None, 1))}, "different numbers from 0"),
    ],
)
def test_damaged_groups_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    damaged = dataclasses.replace(two_levels(fitted.fitted().model), **change)  # type: ignore[arg-type]
    damaged.save(tmp_path / "model")
    with pytest.raises(ModelError, match=message):
        ClusterModel.load(tmp_path / "model")


def test_groups_keep_their_numbers() -> None:
    """A group of mostly the same images keeps number and name; others get numbers that no group has had."""
    previous = two_levels(fitted.fitted().model)
    labels = previous.arrays["labels"]
    same = Asked((labels, labels), (labels, labels))
    level = Level(np.array([1, 1, -1, -1, 0, 0], np.int32), np.array([0.8, 0.95]))
    found = NumberedGroups.of(level, labels, previous, same)
    assert [(group.id, group.name, group.stability) for group in found.groups] == [
        (9, None, 0.8),
        (7, "animals", 0.95),
    ]
    assert found.used == 10
    assert found.continuation is not None
    assert [retired.number for retired in found.continuation.retired] == [2]
    assert [c.group for c in found.put_on(previous.fitted_clusters)] == [7, 7, None, None, 9, 9]
    none = NumberedGroups.of(None, labels, previous, same)
    assert (none.groups, none.used) == ((), 9)
    first = NumberedGroups.of(level, labels)
    assert ([group.id for group in first.groups], first.used) == ([0, 1], None)


def test_no_group_is_called_as_a_cluster() -> None:
    """Names come from the vocabulary, for what no cluster is called already."""
    model = fitted.fitted().model
    rows, labels = model.arrays["embeddings"].astype(np.float32), model.arrays["labels"]
    level = Level(np.array([0, 0, 1, 1, -1, -1], np.int32), np.ones(2))
    centre = np.stack([rows[np.isin(labels, pair)].mean(axis=0) for pair in ([0, 1], [2, 3])])
    far = np.random.default_rng(0).normal(size=(60, rows.shape[1]))
    vectors = np.concatenate([centre, far]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    phrases = ["pets", "meals", *(f"word {i}" for i in range(60))]
    groups, namer = NumberedGroups.of(level, labels), Phrases(phrases, vectors)
    assert [g.name for g in groups.named(model.arrays, model.clusters, namer).groups] == [
        "pets",
        "meals",
    ]
    taken = tuple(
        dataclasses.replace(c, name="pets" if i == 5 else None) for i, c in enumerate(model.clusters)
    )
    by_hand = groups.named(model.arrays, taken, namer, {"pets"})
    assert [group.name for group in by_hand.groups] != ["pets", "meals"]
    assert "pets" not in [group.name for group in by_hand.groups]


def in_pairs(seed: int) -> np.ndarray:
    """Unit-norm rows of eight kinds, two of which are near each other, four times."""
    rng, made = np.random.default_rng(seed), np.random.default_rng(7)
    pairs = np.repeat(made.normal(size=(4, fitted.DIM)), 2, axis=0)
    kinds = pairs + 0.4 * made.normal(size=(8, fitted.DIM))
    rows = kinds[rng.permutation(np.repeat(np.arange(8), 36))] + 0.25 * rng.normal(size=(288, fitted.DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@cache
def with_groups() -> FitResult:
    return fit(in_pairs(0), parameters=fitted.SMALL, groups=True, thumbnails=False)


def test_a_fit_has_two_levels_and_continues_both(tmp_path: Path) -> None:
    """Groups of a first fit keep their numbers in a second one, which has groups as the first has."""
    first = with_groups().model
    assert first.groups
    assert len({cluster.group for cluster in first.clusters} - {None}) == len(first.groups)
    first.save(tmp_path / "first")
    previous = ClusterModel.load(tmp_path / "first")
    assert previous.groups == first.groups
    second = fit(in_pairs(1), parameters=fitted.SMALL, previous=previous, thumbnails=False)
    assert second.groups is not None
    kept = {group.number for group in second.groups.kept}
    assert kept
    pairs = ({c.id: c.group for c in model.clusters if c.group in kept} for model in (first, second.model))
    before, after = pairs
    assert all(after[number] == group for number, group in before.items() if number in after)
