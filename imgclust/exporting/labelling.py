"""Predictions → what people correct in a labelling tool: Label Studio, COCO, or a spreadsheet. Rows stream.

Sources: Label Studio, "Import pre-annotations" and "Choices"; COCO, "Data format" (object detection).
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import orjson

from imgclust.errors import ImgclustError
from imgclust.images.sources import is_url
from imgclust.support.path_text import from_text, storable, to_text
from imgclust.support.spreadsheets import guard
from imgclust.support.tables import appearing, write_whole
from imgclust.tagging.table import plain
from imgclust.types import OTHER

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.tagging.rows import Row

OTHER_LABEL = "other"
LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files below its document root
COLUMNS = ("id", "source", "label", "cluster", "probability", "second", "second_score")

Labels = Mapping[int, str]  # by cluster, with OTHER


def labels_of(model: ClusterModel) -> Labels:
    """A label for every cluster: its name. Where two would have the same, all begin with their numbers."""
    names = {one.id: plain(one.name or f"cluster {one.id}") for one in model.clusters}
    if max(Counter([*names.values(), OTHER_LABEL]).values()) > 1:
        names = {number: f"{number} {name}" for number, name in names.items()}
    return {**names, OTHER: OTHER_LABEL}


def write_label_studio(rows: Iterable[Row], path: Path, labels: Labels, prefix: str | None = None) -> int:
    """Tasks with the cluster as a prediction, and beside them (`.xml`) the labelling interface for them.

    Args:
        rows: read once.
        path: of the tasks, `.json`.
        labels: see `labels_of`.
        prefix: what stands before an image's id to make its URL. By default, URLs are taken as they are, and
            files as Label Studio serves them where its document root is `/`.

    Returns:
        The number of tasks. An image that is in no cluster has no prediction.

    Raises:
        ImgclustError: it is not known where an image is; a file cannot be written.
    """
    config = path.with_suffix(".xml")
    with appearing(path) as file:
        tasks = (_task(row, labels, prefix) for row in rows)
        count = _write_array(file, tasks)
        write_whole(config, _interface(labels).encode())
    return count


def _task(row: Row, labels: Labels, prefix: str | None) -> dict[str, Any]:
    choice = {"from_name": "cluster", "to_name": "image", "type": "choices"}
    predictions = [
        {
            "model_version": row.model,
            "score": round(row.probability, 6),
            "result": [{**choice, "value": {"choices": [labels[row.cluster]]}}],
        }
    ]
    return {
        "data": {"image": _url(row, prefix), "id": storable(row.id)},
        "predictions": predictions if row.cluster != OTHER else [],
    }


def _url(row: Row, prefix: str | None) -> str:
    if prefix is not None:
        return prefix + quote(os.fsencode(from_text(row.id)))
    if is_url(row.source):
        return storable(row.source)
    if not row.source:
        raise ImgclustError(
            f"it is not known where image {row.id!a:.200} is: give --prefix, which stands before the ids of "
            "images to make their URLs, or the images themselves"
        )
    return LOCAL_FILES + quote(os.fsencode(row.source.lstrip("/")))


def _interface(labels: Labels) -> str:
    choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in labels.values())
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="cluster" toName="image">\n{choices}  </Choices>\n</View>\n'
    )


def write_coco(rows: Iterable[Row], path: Path, labels: Labels, prefix: str | None = None) -> int:
    """COCO's JSON: clusters are categories, under their own numbers; an annotation is a whole image.

    Args:
        rows: read once; annotations wait in a temporary file, as they stand behind all images.
        prefix: what stands before the id to make `file_name`.

    Returns:
        The number of images. One that is in no cluster has no annotation.

    Raises:
        ImgclustError: the size of an image is not known, or the file cannot be written.
    """
    categories = [{"id": n, "name": label, "supercategory": "cluster"} for n, label in labels.items()]
    with tempfile.TemporaryFile() as later, appearing(path) as file:
        file.write(b'{"info":{"description":"clusters of imgclust"},"licenses":[],"categories":')
        file.write(orjson.dumps([one for one in categories if one["id"] != OTHER]))
        file.write(b',"images":')
        count = _write_array(file, _coco_images(rows, prefix or "", later))
        later.seek(0)
        file.write(b',"annotations":[')
        shutil.copyfileobj(later, file)
        file.write(b"]}\n")
    return count


def _coco_images(rows: Iterable[Row], prefix: str, later: BinaryIO) -> Iterable[dict[str, Any]]:
    annotations = 0
    for number, row in enumerate(rows, 1):
        if not (row.width and row.height):
            raise ImgclustError(
                f"COCO needs the sizes of images, and that of {row.id!a:.200} is not known: export "
                "the images or their embeddings folder, or --to label-studio or csv"
            )
        if row.cluster != OTHER:
            later.write(b",\n" if annotations else b"")
            annotations += 1
            later.write(
                orjson.dumps(
                    {
                        "id": annotations, "image_id": number, "category_id": row.cluster,
                        "bbox": [0, 0, row.width, row.height], "area": row.width * row.height,
                        "segmentation": [], "iscrowd": 0, "score": round(row.probability, 6),
                    }
                )
            )  # fmt: skip
        address = {"coco_url": storable(row.source)} if is_url(row.source) else {}
        name = storable(prefix) + storable(row.id)
        yield {"id": number, "file_name": name, "width": row.width, "height": row.height, **address}


def _write_array(file: BinaryIO, values: Iterable[Any]) -> int:
    count = 0
    file.write(b"[")
    for value in values:
        file.write(b",\n" if count else b"\n")
        file.write(orjson.dumps(value))
        count += 1
    file.write(b"\n]")
    return count


def write_csv(rows: Iterable[Row], path: Path, labels: Labels, prefix: str | None = None) -> int:
    """A table for a spreadsheet: the label, to be corrected in place, and the second guess.

    Args:
        prefix: what stands before the id in the column `source`; by default, where the image was read.

    Returns:
        The number of rows.

    Raises:
        ImgclustError: the file cannot be written.
    """
    count = 0
    with appearing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        out = csv.writer(text, lineterminator="\n")
        out.writerow(COLUMNS)
        for row in rows:
            cells = _cells(row, labels, prefix)
            out.writerow([guard(cell) if isinstance(cell, str) else cell for cell in cells])
            count += 1
        text.detach()
    return count


def _cells(row: Row, labels: Labels, prefix: str | None) -> list[str | float | None]:
    second = next((guess for guess in row.candidates if guess.cluster != row.cluster), None)
    return [
        storable(row.id),
        to_text(row.source) if prefix is None else storable(prefix) + storable(row.id),
        labels[row.cluster],
        row.cluster,
        round(row.probability, 6),
        labels[second.cluster] if second else None,
        round(second.score, 6) if second else None,
    ]
