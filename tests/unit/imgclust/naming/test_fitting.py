"""What names clusters in a fit, by what was given and by the encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from imgclust.errors import EncoderError, FitError
from imgclust.naming.fitting import check_vocabulary, fit_namer
from imgclust.naming.hierarchy import ClassHierarchy
from imgclust.naming.phrases import Phrases
from imgclust.types import MINI
from tests.support.fitted import ENCODER

OF_MINI = dataclasses.replace(ENCODER, name="mini", architecture=MINI)


def test_the_hierarchy_names_clusters_of_mini(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, where its packages are; another encoder brings nothing; what is given comes first."""
    hierarchy, phrases = ClassHierarchy(np.eye(3, dtype=np.float32)), (["a"], np.eye(1, dtype=np.float32))
    monkeypatch.setattr(ClassHierarchy, "of", lambda weights: hierarchy)
    assert fit_namer(None, OF_MINI) is hierarchy
    assert fit_namer(None, ENCODER) is None
    assert fit_namer(None, None) is None
    assert fit_namer(phrases, OF_MINI) == Phrases(*phrases)
    assert fit_namer(hierarchy, ENCODER) is hierarchy

    def missing(weights: Path | None) -> ClassHierarchy:
        raise EncoderError("the encoder 'mini' needs the package timm")

    monkeypatch.setattr(ClassHierarchy, "of", missing)
    assert fit_namer(None, OF_MINI) is None


@pytest.mark.parametrize("wrong", ["food", ["food"], (["food"], np.eye(2)), ("ab", np.eye(2)), (["a"], [1])])
def test_a_wrong_vocabulary_is_refused_at_once(wrong: object) -> None:
    with pytest.raises(FitError, match=r"a vocabulary is phrases and a row of numbers for each"):
        check_vocabulary(wrong)


def test_what_a_vocabulary_may_be() -> None:
    for right in (None, (["a", "b"], np.eye(2)), ClassHierarchy(np.eye(3, dtype=np.float32))):
        check_vocabulary(right)
