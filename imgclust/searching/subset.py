"""A part of an embeddings folder: the images of one cluster, or those that a condition in SQL is true of."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.errors import EmbeddingsError, ImgclustError
from imgclust.searching.rows import check_cluster

if TYPE_CHECKING:
    import numpy.typing as npt

    from imgclust.embedding.store import Embeddings
    from imgclust.model.model import ClusterModel

    Rows = npt.NDArray[np.int64]

FIXED = (
    "id",
    "source",
    "width",
    "height",
)  # columns that every image has; an attribute of this name is hidden


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
    rows = np.flatnonzero(labels == cluster)
    if not len(rows):
        raise ImgclustError(
            f"none of the {len(embeddings)} images is in cluster {cluster} of {model.version}"
        )
    return take(embeddings, rows)


def where(embeddings: Embeddings, condition: str) -> Embeddings:
    """The images that a condition is true of, in duckdb's SQL, over id, source, width, height and attributes.

    Args:
        condition: like `lang = 'de' and likes > 100`; names that are no plain words stand in double quotes.

    Raises:
        ImgclustError: duckdb is not installed.
        EmbeddingsError: the condition cannot be evaluated, or is true of no image.
    """
    try:
        import duckdb
    except ImportError:
        raise ImgclustError("conditions need duckdb: pip install 'imgclust[sql]'") from None
    table = _table(embeddings)
    # a condition is to choose rows and nothing else: it reads no file, and loads nothing
    settings = {
        "enable_external_access": False,
        "autoload_known_extensions": False,
        "lock_configuration": True,
    }
    with duckdb.connect(
        ":memory:", config={name: str(value).lower() for name, value in settings.items()}
    ) as db:
        db.register("images", table)
        try:
            parsed = db.extract_statements(f"SELECT row FROM images WHERE ({condition}\n)")  # noqa: S608
            if len(parsed) != 1:
                raise EmbeddingsError(f"--where takes one condition, got {condition!a:.200}")
            found = db.execute(parsed[0]).fetchnumpy()["row"]
        except duckdb.Error as error:
            columns = ", ".join(name for name in table.column_names if name != "row")
            reason = re.sub(r"\s+", " ", str(error).splitlines()[0])
            raise EmbeddingsError(
                f"the condition {condition!a:.200} cannot be used: {reason}; the columns are {columns:.300}"
            ) from None
    rows = np.flatnonzero(np.isin(np.arange(len(embeddings)), found))
    if not len(rows):
        raise EmbeddingsError(f"the condition {condition!a:.200} is true of none of {len(embeddings)} images")
    return take(embeddings, rows)


def _table(embeddings: Embeddings) -> Any:
    """The images as a pyarrow table; attributes that are all numbers, or all true or false, stay so."""
    import pyarrow as pa

    names = sorted({name for attributes in embeddings.attributes for name in attributes} - {*FIXED, "row"})
    columns = {
        "row": pa.array(np.arange(len(embeddings))),
        "id": pa.array(embeddings.ids, pa.string()),
        "source": pa.array(embeddings.sources, pa.string()),
        "width": pa.array(embeddings.widths),
        "height": pa.array(embeddings.heights),
    }
    for name in names:
        columns[name] = _column([attributes.get(name) for attributes in embeddings.attributes])
    return pa.table(columns)


def _column(values: list[Any]) -> Any:
    import pyarrow as pa

    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    for allowed, type_ in (({bool}, pa.bool_()), ({int}, pa.int64()), ({int, float}, pa.float64())):
        if kinds <= allowed:
            return pa.array(values, type_)
    return pa.array([None if value is None else str(value) for value in values], pa.string())
