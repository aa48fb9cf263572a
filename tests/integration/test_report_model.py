"""The report and the predictions of a model that was really fitted, saved and loaded."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgclust.embedding.store import EmbeddingsWriter, read_embeddings
from imgclust.model.model import ClusterModel
from imgclust.report.page import write_report
from imgclust.tagging.files import write_rows
from imgclust.tagging.rows import predict_embeddings
from imgclust.training.fit import fit
from imgclust.types import EncoderIdentity, Preprocessing

GROUPS, EACH, DIM = 5, 60, 32
IDENTITY = EncoderIdentity("test", "none", "0" * 64, Preprocessing(8, 8), "float32", DIM)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five groups of 60 unit vectors around random directions."""
    random = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("embeddings")
    centres = random.normal(size=(GROUPS, DIM))
    with EmbeddingsWriter(folder, IDENTITY) as writer:
        for i in range(GROUPS * EACH):
            vector = centres[i % GROUPS] + random.normal(0, 0.35, DIM)
            writer.append(
                id=f"{i}.png", source=f"/nowhere/{i}.png", embedding=vector / np.linalg.norm(vector),
                width=1, height=1, sha256="", attributes={"category": f"group {i % GROUPS}"},
            )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model fitted on them, saved."""
    path = tmp_path_factory.mktemp("model") / "model"
    fit(read_embeddings(embeddings), parameters={"consensus": 0}).model.save(path)
    return path


def payload(page: Path) -> dict[str, Any]:
    found = re.search(r'id="report-data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@pytest.mark.slow
def test_the_report_tells_what_the_model_holds(folder: Path, embeddings: Path, tmp_path: Path) -> None:
    """Clusters, sizes, figures, the filter and every probability are the model's own."""
    model = ClusterModel.load(folder)
    found = payload(write_report(folder, tmp_path / "report.html", images=embeddings))
    assert [(c["id"], c["trained"]) for c in found["clusters"]] == [(c.id, c.size) for c in model.clusters]
    assert found["total"] == GROUPS * EACH == found["other"] + sum(c["size"] for c in found["clusters"])
    assert set(found["images"]["ids"]) == {f"{i}.png" for i in range(GROUPS * EACH)}
    assert [f["name"] for f in found["facets"]] == ["category"]
    assert {s["title"] for s in found["sections"]} >= {"Training", "UMAP", "HDBSCAN", "Encoder", "Libraries"}
    assert "In no cluster" in {t["label"] for t in found["tiles"]}
    assert 255 not in base64.b64decode(found["images"]["probability"])  # 255: not known


@pytest.mark.slow
def test_predictions_are_the_models(folder: Path, embeddings: Path, tmp_path: Path) -> None:
    """Rows of the stored embeddings say what `predict` says, and go back into a report as tags."""
    model = ClusterModel.load(folder)
    stored = read_embeddings(embeddings)
    said = model.predict(stored.vectors)
    rows = list(predict_embeddings(model, embeddings))
    assert [r.id for r in rows] == stored.ids
    assert [r.cluster for r in rows] == said.labels.tolist()
    assert [r.probability for r in rows] == said.probabilities.tolist()
    write_rows(rows, tmp_path / "tags.parquet")
    found = payload(write_report(model, tmp_path / "report.html", tags=tmp_path / "tags.parquet"))
    assert found["facets"][0]["values"] == [f"group {g}" for g in range(GROUPS)]
