"""Thresholds of classes: the lowest that keeps the precision, or a sentence that says what can be had."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from imgclust.editing.classes import MAX_VECTORS
from imgclust.editing.parsing import from_half
from imgclust.editing.thresholds import LEAST, from_examples, from_labels, likeness
from imgclust.errors import ModelError
from tests.support.fitted import grouped


def kind(number: int, seed: int, each: int = 30) -> np.ndarray:
    rows, group = grouped(seed=seed, groups=8, each=each)
    return rows[group == number]


def others(seed: int, each: int = 30) -> np.ndarray:
    rows, group = grouped(seed=seed, groups=8, each=each)
    return rows[group < 6]


@given(st.integers(0, 30), st.sampled_from([0.5, 0.8, 0.95, 1.0]), st.integers(5, 40), st.integers(0, 60))
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_lowest_threshold_with_the_precision(seed: int, wanted: float, own: int, more: int) -> None:
    """Counted again, image by image: the precision and recall that are stated, and no image of the class
    below the threshold could be let in as well. Or it is refused, and no threshold does it."""
    rng = np.random.default_rng(seed)
    vector = kind(6, 1)[:1]
    noisy = kind(6, seed)[:own] + 0.3 * rng.normal(size=(min(own, 30), vector.shape[1]))
    shows = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    not_it = others(seed)[:more]
    right, wrong = likeness(shows, vector), likeness(not_it, vector)

    def precision(at: float) -> float:
        inside = int((right >= at).sum())
        return inside / (inside + int((wrong >= at).sum())) if inside >= LEAST else 0

    best = max(map(precision, right.tolist()))
    if best < wanted:
        with pytest.raises(
            ModelError, match=f"precision of {wanted:g} cannot be reached: at best {best:.2f}"
        ):
            from_labels(vector, shows, not_it, wanted, "a phrase")
        return
    rule = from_labels(vector, shows, not_it, wanted, "a phrase")
    found = rule.measured
    assert found.precision == precision(rule.threshold) >= wanted
    assert found.recall == (right >= rule.threshold).mean()
    assert (found.positives, found.others, found.labelled) == (len(shows), len(not_it), True)
    assert all(precision(at) < wanted for at in right.tolist() if at < rule.threshold)


def test_examples_are_judged_by_each_other() -> None:
    """An example is compared with the others and never with itself, and its copies count once."""
    examples = kind(6, 1)[:12]
    rule = from_examples(np.concatenate([examples, examples[:4]]), others(2), 0.95)
    assert len(rule.vectors) == 12
    own = [likeness(examples[i : i + 1], np.delete(examples, i, axis=0))[0] for i in range(12)]
    assert rule.threshold in own
    assert rule.measured.recall == np.mean([cosine >= rule.threshold for cosine in own])
    assert not rule.measured.labelled
    new = likeness(kind(6, 9), from_half(rule.vectors)) >= rule.threshold
    strangers = likeness(others(9), from_half(rule.vectors)) >= rule.threshold
    assert new.mean() > 0.7
    assert strangers.mean() < 0.01


def test_copies_of_examples_are_no_witnesses() -> None:
    """Among the other images and among labelled ones they are left out."""
    examples = kind(6, 1)[:10]
    assert from_examples(examples, np.concatenate([others(2), examples]), 0.95).measured.others == len(
        others(2)
    )
    shows = np.concatenate([kind(6, 3), examples])
    assert from_labels(examples, shows, others(2), 0.95).measured.positives == len(kind(6, 3))


def test_many_examples_are_summed_up() -> None:
    """At most 64 vectors, and images of the class are found by them."""
    rule = from_examples(kind(6, 1, each=150), others(2), 0.95)
    assert len(rule.vectors) == MAX_VECTORS
    assert (likeness(kind(6, 9), from_half(rule.vectors)) >= rule.threshold).mean() > 0.8


def test_refusals_say_what_to_do() -> None:
    """Too few examples, an unreachable precision with the images that are in the way, no such precision."""
    with pytest.raises(ModelError, match=r"4 different examples are too few .* give 5 or more"):
        from_examples(np.repeat(kind(6, 1)[:4], 3, axis=0), others(2), 0.95)
    hidden = np.concatenate([others(2), kind(6, 5)])
    names = [f"image {i}" for i in range(len(hidden))]
    with pytest.raises(ModelError, match=r"at best 0\.\d+, .* 'image 1\d\d'.*perhaps they do"):
        from_examples(kind(6, 1)[:8], hidden, 0.99, names)
    with pytest.raises(ModelError, match=r"from 0\.5 to 1, got 0\.2"):
        from_examples(kind(6, 1), others(2), 0.2)
    with pytest.raises(ModelError, match="2 labelled images of the class"):
        from_labels(kind(6, 1)[:1], kind(6, 2)[:2], others(2), 0.9, "a phrase")
