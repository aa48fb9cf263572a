"""What a log of hand edits says of classes, compiled for the predictor. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgclust.editing.classes import AddClass, RemoveClass
from imgclust.editing.log import Edit, effective
from imgclust.editing.parsing import from_half
from imgclust.errors import ModelError
from imgclust.predictor.class_rules import ClassRules


def classes_of(log: Sequence[Edit]) -> list[AddClass]:
    """The classes that are there, in the order in which they were added.

    Raises:
        ModelError: one is removed that is not there.
    """
    there: dict[int, AddClass] = {}
    for edit in effective(log):
        if isinstance(edit.change, AddClass):
            there[edit.change.number] = edit.change
        elif isinstance(edit.change, RemoveClass) and there.pop(edit.change.number, None) is None:
            raise ModelError(
                "the model's record of hand edits is damaged: it removes a class that is not there"
            )
    return list(there.values())


def class_rules(log: Sequence[Edit], dim: int) -> ClassRules | None:
    """What decides; None: there are no classes.

    Args:
        dim: numbers per embedding.

    Raises:
        ModelError: a class is of another space.
    """
    classes = classes_of(log)
    if not classes:
        return None
    vectors = [from_half(one.rule.vectors) for one in classes]
    if any(rows.shape[1] != dim for rows in vectors):
        raise ModelError(f"the model's record of hand edits is damaged: its classes are not of {dim} numbers")
    ends = np.cumsum([len(rows) for rows in vectors])
    return ClassRules(
        np.array([one.number for one in classes], np.int32),
        np.ascontiguousarray(np.concatenate(vectors).astype(np.float64).T),
        np.concatenate([[0], ends[:-1]]).astype(np.int64),
        np.array([one.rule.threshold for one in classes]),
        np.array([one.rule.measured.wanted for one in classes], np.float32),
    )
