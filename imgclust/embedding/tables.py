"""Embeddings as one Arrow table, for other tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from imgclust.types import Floats, Ints


def as_table(
    ids: Sequence[str],
    sources: Sequence[str],
    sizes: Mapping[str, Ints],
    sha256: Sequence[str | None],
    attributes: Sequence[Mapping[str, Any]],
    vectors: Floats,
) -> pa.Table:
    """See `imgclust.embedding.store.Embeddings.to_arrow`.

    Args:
        sizes: column → int32 (n,).
    """
    known = {
        "id": pa.array(ids, pa.string()),
        "source": pa.array(sources, pa.string()),
        **{name: pa.array(values) for name, values in sizes.items()},
        "sha256": pa.array(sha256, pa.string()),
    }
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    embedding = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    names = sorted({name for one in attributes for name in one} - {*known, "embedding"})
    more = {name: _column([one.get(name) for one in attributes]) for name in names}
    return pa.table({**known, **more, "embedding": embedding})


def _column(values: Sequence[Any]) -> pa.Array:
    """Texts, where images have values of different types."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
