"""What embedding-atlas gets, and how it is started."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from imgclust.cli import explore
from imgclust.cli.arguments import main
from imgclust.embedding.store import EmbeddingsWriter
from imgclust.exporting.atlas import write_atlas
from imgclust.types import OTHER
from tests.support.fitted import ENCODER, fitted, grouped


def test_the_map_as_it_is(tmp_path: Path) -> None:
    """Without a folder: the images of the map, where they are, with their clusters."""
    model = fitted().model
    model = model.edit().drop(model.clusters[0].id)
    assert write_atlas(model, tmp_path / "a.parquet") == len(model.map)
    table = pq.read_table(tmp_path / "a.parquet")
    for column in ("id", "x", "y", "cluster"):
        assert table[column].to_pylist() == model.map[column].to_pylist()
    assert {"other"} == {
        name for name, c in zip(table["name"].to_pylist(), table["cluster"].to_pylist(), strict=True) if c < 0
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "a.parquet"]


def test_images_beside_the_map(tmp_path: Path) -> None:
    """Images of a folder have their places by id; others lie among the images of their cluster."""
    model, rows = fitted().model, grouped()[0]
    with EmbeddingsWriter(tmp_path / "embeddings", ENCODER) as writer:
        for i, row in enumerate(rows):
            name = str(i) if i % 2 else f"new {i}"
            writer.append(id=name, source="", embedding=row.astype(np.float16), width=1, height=1, sha256="")
    assert write_atlas(model, tmp_path / "a.parquet", tmp_path / "embeddings") == len(rows)
    found = pq.read_table(tmp_path / "a.parquet").to_pylist()
    on_map = {row["id"]: (row["x"], row["y"]) for row in model.map.to_pylist()}
    assert all((row["x"], row["y"]) == on_map[row["id"]] for row in found if row["id"] in on_map)
    labels = np.asarray(model.map["cluster"])
    plane = np.stack([np.asarray(model.map["x"]), np.asarray(model.map["y"])], axis=1)
    inside = []
    for row in found:
        if row["id"] not in on_map and row["cluster"] != OTHER:
            members = plane[labels == row["cluster"]]
            place = np.array([row["x"], row["y"]])
            inside.append(bool((members.min(axis=0) <= place).all() and (place <= members.max(axis=0)).all()))
    assert len(inside) > 50
    assert np.mean(inside) > 0.9


def test_it_is_started_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The program gets the file and its columns; without it, the command says what to install."""
    fitted().model.save(tmp_path / "model")
    told = tmp_path / "told.json"
    program = tmp_path / "atlas"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{told}'\nexit 3\n")
    program.chmod(0o755)
    arguments = ["explore", str(tmp_path / "model"), "-o", str(tmp_path / "a.parquet")]
    monkeypatch.setattr(explore, "_program", lambda: str(program))
    assert main(arguments) == 3
    assert told.read_text().split("\n")[:3] == [str(tmp_path / "a.parquet"), "--x", "x"]
    monkeypatch.setattr(explore, "_program", lambda: None)
    assert main(arguments) == 0
    assert "pip install 'imgclust[explore]'" in capfd.readouterr().err
