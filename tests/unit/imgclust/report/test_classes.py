"""The report of a model with a class: marked, with its precision, and its pictures counted."""

from __future__ import annotations

import numpy as np

from imgclust.editing.thresholds import from_examples
from imgclust.report.data import from_model
from imgclust.report.payload import payload
from tests.support.fitted import fitted, grouped


def test_a_class_is_marked_and_explained() -> None:
    """In the list of clusters, and in a table with precision, recall and what it is made of; a model without
    classes has no such table."""
    model = fitted().model
    own = model.arrays["embeddings"][model.labels_ == 2].astype(np.float32)
    rows, group = grouped(seed=3, groups=8)
    changed = model.edit().add_class("twos", from_examples(own, rows[group == 6], 0.95))
    found = payload(from_model(changed))
    assert [cluster["id"] for cluster in found["clusters"] if cluster["class"]] == [6]
    (section,) = (one for one in found["sections"] if one["title"] == "Classes")
    ((heading, text),) = section["rows"]
    assert heading == "#6 twos"
    assert "if no other image shows it; made of " in text
    assert sum(cluster["trained"] for cluster in found["clusters"]) == (changed.labels_ >= 0).sum()
    plain = payload(from_model(model))
    assert not [one for one in plain["sections"] if one["title"] == "Classes"]
