"""What labelling tools read: every image once, labels that tell clusters apart, nothing that runs."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import pytest

from imgclust.errors import ImgclustError
from imgclust.exporting import labelling
from imgclust.model.model import ClusterModel
from imgclust.tagging.rows import Guess, Row

FOOD, HOSTILE = "food", '=cmd|"</Choice>"\n'
LABELS = {0: FOOD, 3: '=cmd|"</Choice>"', -1: "other"}


def row(id: str, cluster: int, **others: Any) -> Row:
    candidates = (Guess(0, FOOD, 0.6), Guess(3, HOSTILE, 0.25))
    row = Row(id, f"/pictures/{id}", cluster, None, 0.5, False, candidates, "m1", "t1", width=40, height=30)
    return dataclasses.replace(row, **others)


ROWS = [row("a b.png", 0), row("=x.png", 3, source="https://example.com/x.png"), row("c.png", -1)]


def model_of(*names: str | None) -> ClusterModel:
    clusters = [SimpleNamespace(id=number, name=name) for number, name in enumerate(names)]
    return cast(ClusterModel, SimpleNamespace(clusters=clusters))


def test_labels_tell_clusters_apart() -> None:
    """Clusters without a name, with one name between them, and one that is called "other"."""
    assert labelling.labels_of(model_of("a", None)) == {0: "a", 1: "cluster 1", -1: "other"}
    for names in (("a", "a", "b"), ("other", "b"), ("cluster 1", None)):
        labels = labelling.labels_of(model_of(*names))
        assert len(set(labels.values())) == len(labels)
        assert all(label.startswith(f"{n} ") for n, label in labels.items() if n >= 0)
    assert "\n" not in labelling.labels_of(model_of(HOSTILE))[0]


def test_label_studio(tmp_path: Path) -> None:
    """A task for each image with its cluster chosen; the interface knows every choice, whatever its text."""
    assert labelling.write_label_studio(iter(ROWS), tmp_path / "tasks.json", LABELS) == 3
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=pictures/a%20b.png",
        "https://example.com/x.png",
        "/data/local-files/?d=pictures/c.png",
    ]
    (first,) = tasks[0]["predictions"]
    assert first["model_version"] == "m1"
    assert tasks[2]["predictions"] == []
    interface = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    choices = interface.find("Choices")
    assert choices is not None
    assert [choice.get("value") for choice in choices] == list(LABELS.values())
    (result,) = first["result"]
    assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
    assert result["value"]["choices"] == [FOOD]


def test_label_studio_needs_places(tmp_path: Path) -> None:
    """Without a source only a prefix helps; nothing is left behind."""
    unknown = [row("a b.png", 0, source="")]
    with pytest.raises(ImgclustError, match=r"not known where image 'a b.png' is: give --prefix"):
        labelling.write_label_studio(unknown, tmp_path / "tasks.json", LABELS)
    assert list(tmp_path.iterdir()) == []
    labelling.write_label_studio(unknown, tmp_path / "tasks.json", LABELS, "https://example.com/")
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"]["image"] == "https://example.com/a%20b.png"


def test_coco(tmp_path: Path) -> None:
    """Ids lead to images and categories; a box is the whole picture; "other" is not annotated."""
    assert labelling.write_coco(iter(ROWS), tmp_path / "labels.json", LABELS, "train/") == 3
    found = json.loads((tmp_path / "labels.json").read_text())
    images = {image["id"]: image for image in found["images"]}
    assert [image["file_name"] for image in images.values()] == [
        "train/a b.png",
        "train/=x.png",
        "train/c.png",
    ]
    assert images[2]["coco_url"] == "https://example.com/x.png"
    assert {one["id"]: one["name"] for one in found["categories"]} == {0: FOOD, 3: LABELS[3]}
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in found["annotations"]] == [
        (1, 0, [0, 0, 40, 30]),
        (2, 3, [0, 0, 40, 30]),
    ]


def test_coco_needs_sizes(tmp_path: Path) -> None:
    with pytest.raises(ImgclustError, match=r"COCO needs the sizes of images, and that of 'a.png'"):
        labelling.write_coco([row("a.png", 0, width=0)], tmp_path / "labels.json", LABELS)
    assert list(tmp_path.iterdir()) == []


def test_no_images(tmp_path: Path) -> None:
    """What no image went into is sound all the same."""
    assert labelling.write_coco([], tmp_path / "a.json", LABELS) == 0
    assert json.loads((tmp_path / "a.json").read_text())["annotations"] == []
    assert labelling.write_label_studio([], tmp_path / "b.json", LABELS) == 0
    assert json.loads((tmp_path / "b.json").read_text()) == []


def test_csv(tmp_path: Path) -> None:
    """No cell is a formula; numbers stay numbers; the second guess is another cluster."""
    assert labelling.write_csv(iter(ROWS), tmp_path / "labels.csv", LABELS) == 3
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [one["id"] for one in rows] == ["a b.png", "'=x.png", "c.png"]
    assert [one["label"] for one in rows] == [FOOD, "'" + LABELS[3], "other"]
    assert [one["cluster"] for one in rows] == ["0", "3", "-1"]
    assert [one["second"] for one in rows] == ["'" + LABELS[3], FOOD, FOOD]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """The bytes of a file's name reach the URL, and no writer stumbles."""
    odd = row("M\\udce4rz.png", 0, source="/pictures/M\udce4rz.png")
    labelling.write_label_studio([odd], tmp_path / "a.json", LABELS)
    assert json.loads((tmp_path / "a.json").read_text())[0]["data"]["image"].endswith("/M%E4rz.png")
    assert labelling.write_coco([odd], tmp_path / "b.json", LABELS) == 1
    assert labelling.write_csv([odd], tmp_path / "c.csv", LABELS) == 1
