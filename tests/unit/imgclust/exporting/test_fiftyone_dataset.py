"""A dataset of FiftyOne, through a stand-in for its package that keeps what it is given."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from imgclust.errors import ImgclustError
from imgclust.exporting.fiftyone_dataset import write_fiftyone
from tests.unit.imgclust.exporting.test_labelling import LABELS, ROWS, row

DATASETS: dict[str, Dataset] = {}


class Dataset:
    def __init__(self, name: str, persistent: bool) -> None:
        self.name, self.persistent, self.samples = name, persistent, list[Any]()
        DATASETS[name] = self

    def add_samples(self, samples: list[Any], progress: bool) -> None:
        self.samples += samples

    def delete(self) -> None:
        del DATASETS[self.name]


class Sample(dict[str, Any]):
    def __init__(self, filepath: str) -> None:
        super().__init__(filepath=filepath)


@pytest.fixture
def fiftyone(monkeypatch: pytest.MonkeyPatch) -> None:
    DATASETS.clear()
    package = SimpleNamespace(
        Dataset=Dataset, Sample=Sample, Classification=dict, dataset_exists=DATASETS.__contains__
    )
    monkeypatch.setitem(sys.modules, "fiftyone", package)


@pytest.mark.usefixtures("fiftyone")
def test_a_sample_for_each_image() -> None:
    """With its file and its cluster; an image in no cluster has no classification. A name is used once."""
    assert write_fiftyone(iter(ROWS), "mine", LABELS) == 3
    assert DATASETS["mine"].persistent
    first, second, third = DATASETS["mine"].samples
    assert (first["filepath"], first["image_id"]) == ("/pictures/a b.png", "a b.png")
    assert first["cluster"] == {"label": "food", "confidence": 0.5}
    assert second["filepath"] == "https://example.com/x.png"
    assert "cluster" not in third
    with pytest.raises(ImgclustError, match="has a dataset 'mine' already"):
        write_fiftyone(iter(ROWS), "mine", LABELS)


@pytest.mark.usefixtures("fiftyone")
def test_an_image_without_a_file_leaves_no_dataset() -> None:
    with pytest.raises(ImgclustError, match="it is not known where image 'a' is"):
        write_fiftyone([ROWS[0], row("a", 0, source="")], "mine", LABELS)
    assert not DATASETS


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ImgclustError, match="pip install fiftyone"):
        write_fiftyone(ROWS, "mine", LABELS)
