"""Embeddings as other tools want them: a short line, a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from imgclust.embedding.store import Embeddings
from tests.support.fitted import ENCODER, grouped

ROWS = grouped(each=1)[0][:3]
SIZES = np.full(3, 8, np.int32)
EMBEDDINGS = Embeddings(
    ["a", "b", "c"], ["x/a.png", "x/\udcff.png", "x/c.png"], ROWS, SIZES, SIZES, [None] * 3,
    [{"lang": "de", "id": "mine"}, {"lang": "en", "likes": 3}, {"likes": "many"}], ENCODER,
)  # fmt: skip


def test_a_line_says_what_there_is() -> None:
    assert repr(EMBEDDINGS) == "<Embeddings: 3 images, 24 numbers each, test>"


def test_a_table_of_all() -> None:
    """Attributes are columns, but for those named as another column; values of several types become texts."""
    table = EMBEDDINGS.to_arrow()
    assert table.column_names == [
        "id", "source", "width", "height", "sha256", "lang", "likes", "embedding",
    ]  # fmt: skip
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert table["source"].to_pylist()[1] == r"x/\udcff.png"
    assert table["lang"].to_pylist() == ["de", "en", None]
    assert table["likes"].to_pylist() == [None, "3", "many"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 24)
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), ROWS)


def test_a_data_frame() -> None:
    pytest.importorskip("pandas", reason="the extra `notebook` is not installed")
    assert EMBEDDINGS.to_pandas()["lang"].tolist()[:2] == ["de", "en"]
