"""Names from folders and attributes, marked as what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import ImgclustError
from imgclust.naming.given import AttributeNamer, FolderNamer, mostly
from tests.support.fitted import ENCODER, fitted, grouped


def test_mostly() -> None:
    """A name says "mostly" and needs most of the members, those without a value too; "other" has none."""
    members = (
        [(0, "birds")] * 6 + [(0, "fish")] * 4 + [(1, "fish")] * 5 + [(1, None)] * 5 + [(-1, "birds")] * 9
    )
    assert mostly(members) == {0: "mostly birds"}


def test_a_model_without_folders_says_so() -> None:
    """Ids that are names alone give no names, and the error says why."""
    with pytest.raises(ImgclustError, match=r"no training image .* is known by a folder"):
        FolderNamer().names(fitted().model)


def test_by_an_attribute(tmp_path: Path) -> None:
    """The groups that the rows were made of come back as names; an unknown attribute is an error."""
    rows, group = grouped()
    with EmbeddingsWriter(tmp_path, ENCODER) as writer:
        for i, (row, kind) in enumerate(zip(rows, group.tolist(), strict=True)):
            writer.append(
                id=str(i), source="", embedding=row.astype(np.float16), width=1, height=1, sha256="",
                attributes={"kind": f"kind {kind}"},
            )  # fmt: skip
    model = fitted().model
    names = AttributeNamer(tmp_path, "kind").names(model)
    assert set(names) <= {cluster.id for cluster in model.clusters}
    assert len(set(names.values())) >= 4
    assert all(name and name.startswith("mostly kind ") for name in names.values())
    with pytest.raises(ImgclustError, match="has the attribute 'colour'"):
        AttributeNamer(tmp_path, "colour").names(model)
