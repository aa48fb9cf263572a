"""What became of clusters: nothing where nothing changed, and shares that add up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.comparing import comparison_output
from imgclust.comparing.compare import (
    EMPTY,
    GONE,
    KEPT,
    MERGED,
    NEW,
    SHOWN,
    SPLIT,
    Comparison,
    compare,
    compare_labels,
)
from imgclust.comparing.images import PredictedImages
from imgclust.errors import ImgclustError, ModelError
from imgclust.model.parts import Cluster
from imgclust.types import OTHER
from tests.support.fitted import ENCODER, fitted


def clusters(numbers: list[int]) -> list[Cluster]:
    return [Cluster(number, f"name {number}", 0) for number in numbers]


def labelled(*labels: list[int]) -> PredictedImages:
    ids = [f"image {i}" for i in range(len(labels[0]))]
    return PredictedImages(ids, tuple(np.array(one, np.int32) for one in labels))


def compared(before: list[int], after: list[int], *, by_number: bool = False) -> Comparison:
    known = (sorted(set(labels) - {OTHER}) for labels in (before, after))
    return compare_labels(labelled(before, after), *map(clusters, known), by_number=by_number)


NUMBERS = st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True)


@st.composite
def cases(draw: st.DrawFn) -> tuple[PredictedImages, list[int], list[int]]:
    """Labels of two models, of which some clusters may be without images."""
    before, after = draw(NUMBERS), draw(NUMBERS)
    pairs = st.tuples(st.sampled_from([*before, OTHER]), st.sampled_from([*after, OTHER]))
    old, new = zip(*draw(st.lists(pairs, min_size=1, max_size=80)), strict=True)
    return labelled(list(old), list(new)), before, after


@given(cases(), st.booleans())
def test_shares_sum_to_one_and_images_are_counted_once(
    case: tuple[PredictedImages, list[int], list[int]], by_number: bool
) -> None:
    images, before, after = case
    found = compare_labels(images, clusters(before), clusters(after), by_number=by_number)
    for fate in (*found.before, *found.new):
        assert bool(fate.flows) == (fate.images > 0)
        assert sum(flow.images for flow in fate.flows) == fate.images
        if fate.flows:
            assert sum(flow.share for flow in fate.flows) == pytest.approx(1)
    assert sum(fate.images for fate in found.before) + found.other[0] == found.images
    same = [fate.same for fate in found.before if fate.same is not None]
    assert len(set(same)) == len(same)
    assert sorted(same + [fate.number for fate in found.new]) == sorted(after)


@given(cases(), st.booleans())
def test_what_moves_is_what_is_not_kept(
    case: tuple[PredictedImages, list[int], list[int]], by_number: bool
) -> None:
    """Counted again image by image; the examples are images that move, each once, fifty at most."""
    images, before, after = case
    found = compare_labels(images, clusters(before), clusters(after), by_number=by_number)
    stays = {fate.number: fate.same for fate in found.before} | {OTHER: OTHER}
    rows = zip(images.ids, *(one.tolist() for one in images.labels), strict=True)
    moved = {(i, old, new) for i, old, new in rows if stays[old] != new}
    assert found.moved == len(moved)
    shown = [(image.id, image.before, image.after) for image in found.examples]
    assert set(shown) <= moved
    assert len(shown) == len(set(shown)) == min(SHOWN, len(moved))


@given(cases(), st.randoms(use_true_random=False))
def test_permuted_numbers_of_equal_clusters_are_matched_one_to_one(
    case: tuple[PredictedImages, list[int], list[int]], random: object
) -> None:
    images, before, _ = case
    permuted = list(before)
    random.shuffle(permuted)  # type: ignore[attr-defined]
    number = dict(zip(before, permuted, strict=True)) | {OTHER: OTHER}
    old = images.labels[0].tolist()
    renamed = labelled(old, [number[label] for label in old])
    found = compare_labels(renamed, clusters(before), clusters(permuted), by_number=False)
    assert found.moved == 0
    assert not found.examples
    there = [fate for fate in found.before if fate.images]
    assert all(fate.fate == KEPT and fate.same == number[fate.number] for fate in there)
    assert all(fate.fate == EMPTY for fate in found.new)


def test_fates() -> None:
    """Kept, split, merged, gone and new, each with where its images are."""
    before = [1] * 10 + [2] * 10 + [3] * 10 + [4] * 10 + [5] * 10 + [OTHER] * 10
    after = [11] * 9 + [OTHER] + [12] * 5 + [13] * 5 + [14] * 20 + [OTHER] * 10 + [15] * 10
    found = compared(before, after)
    assert [fate.fate for fate in found.before] == [KEPT, SPLIT, MERGED, MERGED, GONE]
    assert found.before[0].same == 11
    assert [(flow.cluster, flow.share) for flow in found.before[1].flows] == [(12, 0.5), (13, 0.5)]
    assert [(fate.number, fate.fate) for fate in found.new] == [(n, NEW) for n in (12, 13, 14, 15)]
    assert found.moved == 51
    assert found.other == (10, 11)


def test_in_one_taxonomy_numbers_decide() -> None:
    """A merged cluster lives on in the first number: only the other one's images move."""
    found = compared([9] * 10 + [10] * 10, [9] * 20, by_number=True)
    assert [(fate.fate, fate.same) for fate in found.before] == [(KEPT, 9), (MERGED, None)]
    assert found.moved == 10
    assert compared([9] * 10 + [10] * 10, [9] * 20).moved == 20


def test_rare_moves_are_shown_too() -> None:
    found = compared([1] * 200 + [2] * 100, [OTHER] * 199 + [2] + [2] * 100, by_number=True)
    assert len(found.examples) == SHOWN
    assert {image.after for image in found.examples} == {OTHER, 2}


def test_no_images_are_refused() -> None:
    with pytest.raises(ImgclustError, match="no image to compare"):
        compare_labels(labelled([], []), [], [], by_number=False)


def test_a_model_compared_with_itself_moves_nothing() -> None:
    """Whether its taxonomy is known to be the same, or found to be."""
    model = fitted().model
    for other in (model, dataclasses.replace(model, continues="f" * 12)):
        found = compare(model, other)
        assert found.by_number == (other is model)
        assert found.moved == 0
        assert {fate.fate for fate in found.before} == {KEPT}
        assert not found.new
        assert found.images == len(model.labels_)


def test_another_encoder_is_refused() -> None:
    model = fitted().model
    other = dataclasses.replace(model, encoder=dataclasses.replace(ENCODER, weights="1" * 64))
    with pytest.raises(ModelError, match=r"takes embeddings of test .*000.* those of test .*111"):
        compare(model, other)


def test_lines_name_what_happened() -> None:
    """Hostile ids and names cannot move a terminal's cursor."""
    before, after = [Cluster(1, "a\x1b[2J", 0), Cluster(2, None, 0), Cluster(3, None, 0)], clusters([5, 6])
    images = PredictedImages(
        ["\x1b[31m", *"bcdefghi"],
        (np.repeat(np.array([1, 2], np.int32), [4, 5]), np.array([5, 6, 5, 6, 6, 6, 6, 6, 6], np.int32)),
    )
    found = compare_labels(images, before, after, by_number=False)
    text = list(comparison_output.lines(found))
    assert (
        text[0] == "2 of 9 images (22.2 %) move; in no cluster: 0.0 % before, 0.0 % after" or found.moved > 2
    )
    assert "without an image among those compared: #3" in text
    assert not any("\x1b" in line for line in text)
    rows = comparison_output.records(found)
    assert all(tuple(row) == comparison_output.COLUMNS for row in rows)
    assert sum(row["what"] == comparison_output.MOVES for row in rows) == found.moved
