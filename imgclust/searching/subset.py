"""A part of the embeddings: the images of one cluster, or those that a condition in SQL is true of.

Of a folder, vectors are read in batches and forgotten, and a condition's columns are held as Arrow has them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from imgclust.embedding.store import Embeddings, iter_vectors, shard_batches
from imgclust.errors import EmbeddingsError, ImgclustError
from imgclust.searching.rows import check_cluster
from imgclust.support.path_text import to_text

if TYPE_CHECKING:
    import numpy.typing as npt

    from imgclust.model.model import ClusterModel

    Rows = npt.NDArray[np.int64]

FIXED = (
    "id",
    "source",
    "width",
    "height",
)  # columns that every image has; an attribute of this name is hidden
_TYPES = {
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
}


def take(embeddings: Embeddings, rows: Rows) -> Embeddings:
    """Some rows, by their numbers."""

    def taken(values: Any) -> Any:
        return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]

    per_row = {
        field.name: taken(getattr(embeddings, field.name))
        for field in dataclasses.fields(embeddings)
        if field.name != "identity"
    }
    return dataclasses.replace(embeddings, **per_row)


def within(embeddings: Embeddings, model: ClusterModel, cluster: int) -> Embeddings:
    """The images that a model predicts to be in a cluster; −1 is "other".

    Raises:
        ImgclustError: the model has no such cluster, or no image is in it.
        EmbeddingsError: the embeddings are another encoder's.
    """
    check_cluster(model, cluster)
    labels = model.predict(embeddings.vectors, encoder=embeddings.identity).labels
    return take(embeddings, _some(np.flatnonzero(labels == cluster), len(embeddings), model, cluster))


def rows_within(folder: Path, model: ClusterModel, cluster: int, among: Rows | None = None) -> Rows:
    """Numbers of a folder's images that a model predicts to be in a cluster, ascending.

    Args:
        among: numbers of those that are asked about, ascending; None: all.

    Raises:
        as `within`.
    """
    check_cluster(model, cluster)
    found, total = [np.empty(0, np.int64)], 0
    for numbers, vectors, identity in iter_vectors(folder, among):
        found.append(numbers[model.predict(vectors, encoder=identity).labels == cluster])
        total += len(numbers)
    return _some(np.concatenate(found), total, model, cluster)


def _some(rows: Rows, total: int, model: ClusterModel, cluster: int) -> Rows:
    if not len(rows):
        raise ImgclustError(f"none of the {total} images is in cluster {cluster} of {model.version}")
    return rows


def where(embeddings: Embeddings, condition: str) -> Embeddings:
    """The images that a condition is true of, in duckdb's SQL, over id, source, width, height and attributes.

    Args:
        condition: like `lang = 'de' and likes > 100`; names that are no plain words stand in double quotes.

    Raises:
        ImgclustError: duckdb is not installed.
        EmbeddingsError: the condition cannot be evaluated, or is true of no image.
    """
    kinds = _kinds(embeddings.attributes)
    columns = {
        "id": pa.array(embeddings.ids, pa.string()),
        "source": pa.array([to_text(source) for source in embeddings.sources], pa.string()),
        "width": pa.array(embeddings.widths),
        "height": pa.array(embeddings.heights),
        **_columns(embeddings.attributes, kinds),
    }
    return take(embeddings, _true_of(pa.table(columns), condition))


def rows_where(folder: Path, condition: str) -> Rows:
    """Numbers of a folder's images that a condition is true of, ascending; vectors are not read.

    Raises:
        as `where`.
    """
    kinds: dict[str, set[type]] = {}
    for batch, _ in shard_batches(folder, columns=["attributes"]):
        for name, found in _kinds(_attributes(batch)).items():
            kinds.setdefault(name, set()).update(found)
    parts = []
    for batch, _ in shard_batches(folder, columns=[*FIXED, "attributes"]):
        columns = _columns(_attributes(batch), kinds)
        parts.append(pa.table({**{name: batch[name] for name in FIXED}, **columns}))
    return _true_of(pa.concat_tables(parts), condition)


def _true_of(table: pa.Table, condition: str) -> Rows:
    try:
        import duckdb
    except ImportError:
        raise ImgclustError("conditions need duckdb: pip install 'imgclust[sql]'") from None
    images = table.append_column("row", pa.array(np.arange(len(table))))
    # a condition is to choose rows and nothing else: it reads no file, and loads nothing
    settings = {
        "enable_external_access": False,
        "autoload_known_extensions": False,
        "lock_configuration": True,
    }
    with duckdb.connect(
        ":memory:", config={name: str(value).lower() for name, value in settings.items()}
    ) as db:
        db.register("images", images)
        try:
            parsed = db.extract_statements(f"SELECT row FROM images WHERE ({condition}\n)")  # noqa: S608
            if len(parsed) != 1:
                raise EmbeddingsError(f"--where takes one condition, got {condition!a:.200}")
            found = db.execute(parsed[0]).fetchnumpy()["row"]
        except duckdb.Error as error:
            columns = ", ".join(table.column_names)
            reason = re.sub(r"\s+", " ", str(error).splitlines()[0])
            raise EmbeddingsError(
                f"the condition {condition!a:.200} cannot be used: {reason}; the columns are {columns:.300}"
            ) from None
    if not len(found):
        raise EmbeddingsError(f"the condition {condition!a:.200} matches none of {len(table)} images")
    return np.unique(found)


def _attributes(batch: pa.RecordBatch) -> list[Mapping[str, Any]]:
    return [json.loads(text) for text in batch["attributes"].to_pylist()]


def _kinds(attributes: Sequence[Mapping[str, Any]]) -> dict[str, set[type]]:
    """Of what types the values of each attribute are; one that is named as a column of ours is hidden."""
    kinds: dict[str, set[type]] = {}
    for some in attributes:
        for name, value in some.items():
            if name not in (*FIXED, "row"):
                kinds.setdefault(name, set()).update(() if value is None else (type(value),))
    return kinds


def _columns(attributes: Sequence[Mapping[str, Any]], kinds: Mapping[str, set[type]]) -> dict[str, pa.Array]:
    """Attributes as columns; those that are all numbers, or all true or false, stay so, others are text."""
    columns = {}
    for name in sorted(kinds):
        values = [some.get(name) for some in attributes]
        type_ = _TYPES.get(frozenset(kinds[name]))
        if type_ is None:
            type_, values = pa.string(), [None if value is None else str(value) for value in values]
        columns[name] = pa.array(values, type_)
    return columns
