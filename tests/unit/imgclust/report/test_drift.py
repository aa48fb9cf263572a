"""The report's sheets on drift: from any file of tags, against what the model said of held-out images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from imgclust.errors import ImgclustError
from imgclust.model.drift import PARTS, Reference, compare
from imgclust.model.model import ClusterModel
from imgclust.report.data import from_model
from imgclust.report.drift import read_drift, sheets, tile
from imgclust.report.page import page
from imgclust.tagging.files import write_rows
from imgclust.tagging.rows import predict_rows
from tests.support import fitted


def model() -> ClusterModel:
    return fitted.fitted().model


def rows_of(group: int | None = None) -> np.ndarray:
    rows, groups = fitted.grouped(seed=21)
    return rows if group is None else rows[groups == group]


def written(path: Path, rows: np.ndarray) -> Path:
    names = [f"image {n}" for n in range(len(rows))]
    write_rows(predict_rows(model(), names, names, rows, [{}] * len(rows)), path)
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_is_counted_as_its_predictions(tmp_path: Path, ending: str) -> None:
    """Each form that `imgclust predict` writes gives the tally of the predictions themselves."""
    rows = rows_of()
    found = read_drift(model(), written(tmp_path / f"tags.{ending}", rows))
    reference = Reference.of_model(model())
    assert found is not None
    assert reference is not None
    expected = compare(reference, reference.count(model().predict(rows)))
    for part in PARTS:
        assert np.array_equal(getattr(found.drift.tally, part), getattr(expected.tally, part)), part
    assert found.drift.index == expected.index
    assert found.foreign == 0


def test_a_changed_mixture_is_on_the_page(tmp_path: Path) -> None:
    """One group alone: the tile and the sheets say "drifted", by how much, and which cluster grew."""
    tags = written(tmp_path / "monday.parquet", rows_of(2))
    found = read_drift(model(), tags)
    assert found is not None
    assert tile(found)[:2] == ("Drift", "Drifted")
    first, moved = sheets(found, {})
    assert first["title"] == "Drift: monday.parquet against held-out images"
    values = dict(first["rows"])
    assert values["Tags"] == "50"
    assert values["Clusters"].endswith(", drifted")
    cluster, before, now = found.drift.moved()[0]
    assert moved["rows"][0] == [f"Cluster {cluster}", f"{100 * before:.1f} % → {100 * now:.1f} %"]
    assert "Drift: monday.parquet against held-out images" in page(from_model(model(), tags=tags))


def test_tags_of_the_topic_are_read(tmp_path: Path) -> None:
    """JSON lines as a consumer would dump them: no similarities; those of another taxonomy are left out."""
    lines = [
        {"id": f"{n}", "cluster": n % 2, "probability": 0.5, "novel": n == 0, "taxonomy": taxonomy}
        for n in range(10)
        for taxonomy in (model().taxonomy, "another")
    ]
    file = tmp_path / "tags.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_drift(model(), file)
    assert found is not None
    assert (found.drift.tally.images, found.foreign, found.drift.tally.novel) == (10, 10, 1)
    values = dict(next(sheets(found, {}))["rows"])
    assert values["Tags"] == "10 (10 of another taxonomy left out)"
    assert values["Similarities"] == "not in these tags"


def test_what_is_not_tags_is_an_error(tmp_path: Path) -> None:
    """A cluster that the model does not have, or no numbers: the error names the file. A model without
    held-out images says nothing of drift."""
    file = tmp_path / "tags.jsonl"
    for wrong in ({"cluster": 99, "probability": 1}, {"cluster": "x", "probability": 1}, {"cluster": 1}):
        file.write_text(json.dumps({"id": "a", **wrong}) + "\n")
        with pytest.raises(ImgclustError, match=r"tags\.jsonl' does not hold tags of this model"):
            read_drift(model(), file)
    assert read_drift(dataclasses.replace(model(), reference=None), file) is None
