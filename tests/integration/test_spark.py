"""The example for Spark in docs/scale.md, as it stands there, on a Spark of this machine."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from imgclust.embedding.store import EmbeddingsWriter
from imgclust.tagging.files import as_record
from imgclust.tagging.rows import predict_embeddings
from tests.support import fitted
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("pyspark") is None, reason="needs pyspark 4 and Java: pip install pyspark"),
]

EXAMPLE = re.compile(r"^## On Spark.*?^```python\n(.*?)^```", re.M | re.S)


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    yield session
    session.stop()


def test_the_example_predicts_an_embeddings_folder(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image once, with what a run without an engine says of it."""
    model, (rows, _) = fitted.fitted().model, fitted.grouped(seed=5)
    monkeypatch.chdir(tmp_path)
    model.save(tmp_path / "model")
    with EmbeddingsWriter(tmp_path / "embeddings", fitted.ENCODER, shard_rows=70) as writer:
        for i, row in enumerate(rows):
            writer.append(
                id=f"{i:03d}", source=f"{i}.png", embedding=row, width=1, height=1, sha256=None,
                attributes={"n": i},
            )  # fmt: skip
    (code,) = EXAMPLE.findall((ROOT / "docs" / "scale.md").read_text())
    names: dict[str, Any] = {"spark": spark}
    os.environ["PWD"] = str(tmp_path)
    exec(code, names)
    found = spark.read.parquet("tags").orderBy("id").collect()
    expected = [as_record(row) for row in predict_embeddings(model, tmp_path / "embeddings")]
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    for column in ("source", "cluster", "probability", "model", "attributes", "novel"):
        assert [row[column] for row in found] == pytest.approx([row[column] for row in expected]), column
