"""Why images are in "other", and what is among them."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgclust.embedding import store_columns
from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import EmbeddingsError
from imgclust.explaining import other_output
from imgclust.explaining.other import Other, explain_other, groups_in
from imgclust.model.model import ClusterModel
from imgclust.model.parts import Cluster
from imgclust.model.reasons import KINDS, thin_regions
from imgclust.predictor.assignment import TABLE
from imgclust.types import OTHER, Prediction
from tests.support.fake_encoder import IDENTITY
from tests.support.frozen_pair import frozen_pair

HOSTILE = "<img src=x onerror=window.pwned=1>\x1b[2J"


@cache
def model() -> ClusterModel:
    """A frozen pair as a model whose map names all of its training images; some are in no cluster."""
    arrays, parameters = frozen_pair()
    labels = arrays["labels"]
    sizes = np.bincount(labels[labels >= 0])
    sink = pa.BufferOutputStream()
    ids = [f"{HOSTILE}{row}" for row in range(len(labels))]
    zeros = np.zeros(len(labels), np.float32)
    pq.write_table(pa.table({"id": ids, "x": zeros, "y": zeros, "cluster": labels}), sink)
    return ClusterModel(
        encoder=None,
        parameters=parameters,
        clusters=tuple(Cluster(number, f"kind {number}", int(size)) for number, size in enumerate(sizes)),
        figures={"train": {"images": len(labels)}},
        arrays=arrays,
        map_data=bytes(sink.getvalue().to_pybytes()),
    )


@cache
def explained() -> Other:
    return explain_other(model())


def test_each_image_has_one_kind() -> None:
    """All images of "other", no other ones, and each of them counts once."""
    found, labels = explained(), model().arrays["labels"]
    assert found.total == len(labels)
    assert [i.id for i in found.images] == [f"{HOSTILE}{row}" for row in np.flatnonzero(labels == OTHER)]
    assert sum(found.kinds().values()) == len(found.images)
    assert found.kinds()["novel"] > 0
    between = sum(image.kind == "between" for image in found.images)
    assert sum(count for _, count in found.nearest()) == between


def test_a_training_image_is_judged_by_the_others() -> None:
    """Its own embedding is among the training ones: by that, nothing would be novel."""
    found, threshold = explained(), model().parameters["novelty"]["threshold"]
    assert all(image.similarity < 0.9999 for image in found.images)
    assert {image.kind for image in found.images if image.similarity < threshold} == {"novel"}


def test_thin_is_what_stands_alone() -> None:
    """A point far from everything is in a thin region; a copy of a cluster's densest point is not."""
    arrays = model().arrays
    dense = arrays["points"][int(arrays["core_distances"].argmin())]
    points = np.stack([dense, np.full(3, 500, np.float32)])
    nothing = np.zeros((2, 3), np.float32)
    found = Prediction(
        labels=np.full(2, OTHER, np.int32),
        probabilities=np.zeros(2, np.float32),
        points=points,
        novel=np.zeros(2, bool),
        candidates=np.zeros((2, 3), np.int32),
        scores=nothing,
        similarities=np.ones(2, np.float32),
        assigned=np.zeros(2, bool),
    )
    assert thin_regions(model(), found).tolist() == [False, True]
    without = dataclasses.replace(found, candidates=np.full((2, 3), OTHER, np.int32))
    assert thin_regions(model(), without).tolist() == [True, True]
    assert not len(thin_regions(model(), found.of(np.zeros(2, bool))))


def test_groups_stand_out() -> None:
    """Two heaps in a thin cloud are found, the larger first; a handful of points holds no group."""
    rng = np.random.default_rng(0)
    heaps = [rng.normal(size=(30, 3)) * 0.1, 9 + rng.normal(size=(50, 3)) * 0.1]
    points = np.concatenate([*heaps, rng.uniform(-40, 40, (20, 3))]).astype(np.float32)
    labels = groups_in(points)
    assert np.bincount(labels[:30] + 1).argmax() == 2
    assert np.bincount(labels[30:80] + 1).argmax() == 1
    assert groups_in(points[:5]).tolist() == [OTHER] * 5


def test_what_is_assigned_is_explained_too() -> None:
    """A model with a target says of its "other" what it would move, and where to."""
    assigning = dataclasses.replace(model(), parameters={**model().parameters, TABLE: {"score": 1e-6}})
    found = explain_other(assigning)
    assert [image.id for image in found.images] == [image.id for image in explained().images]
    moved = [image for image in found.images if image.assigned]
    assert all(image.nearest is not None for image in moved)
    lines = "\n".join(other_output.lines(found))
    assert f"assigns {len(moved)} of them" in lines if moved else "assigns" not in lines


def test_nothing_in_other() -> None:
    """No image, no kinds, no groups; nothing divides by zero."""
    empty = Other(0, (), (), {})
    assert empty.kinds() == dict.fromkeys(KINDS, 0)
    assert next(iter(other_output.lines(empty))).startswith("0 of 0 images")
    assert other_output.as_json(empty)["rows"] == []


def test_ids_are_text_everywhere(tmp_path: Path) -> None:
    """Names come from strangers: neither a terminal nor a page obeys them."""
    found = explained()
    assert found.groups or found.images
    assert "\x1b" not in "\n".join(other_output.lines(found))
    page = tmp_path / "page.html"
    other_output.write_page(page, found, "Other", lambda image: None)
    text = page.read_text()
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert len(other_output.records(found)) == len(found.images)
    assert set(other_output.records(found)[0]) == set(other_output.COLUMNS)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(EmbeddingsError, match="missing"):
        explain_other(model(), tmp_path / "missing")


def test_more_than_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first shard, which tells how much of a folder is in "other"; as much as fits is explained."""
    rows = model().arrays["embeddings"].astype(np.float32)
    identity = dataclasses.replace(IDENTITY, dim=rows.shape[1])
    with EmbeddingsWriter(tmp_path, identity, shard_rows=100) as writer:
        for i, row in enumerate(rows):
            writer.append(id=f"{i}", source="", embedding=row, width=1, height=1, sha256=None)
    monkeypatch.setattr(store_columns, "available_memory", lambda: 10**9)
    found = explain_other(model(), tmp_path)
    assert found.total == len(rows)
    assert found.images
    monkeypatch.setattr(store_columns, "available_memory", lambda: 1000)
    with pytest.raises(EmbeddingsError, match=r"available: leave --on out"):
        explain_other(model(), tmp_path)
