"""`imgclust import` and `imgclust export`, as people type them."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imgclust.cli import arguments, loading
from imgclust.embedding.store import EmbeddingsWriter, iter_embeddings
from imgclust.errors import EncoderError
from tests.support.fitted import ENCODER, fitted, grouped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and an embeddings folder of 40 images of four users that was written elsewhere."""
    root = tmp_path_factory.mktemp("export")
    fitted().model.save(root / "model")
    (root / "work").mkdir()
    before = Path.cwd()
    os.chdir(root / "work")
    try:
        with EmbeddingsWriter(root / "embeddings", ENCODER) as writer:
            for i, row in enumerate(grouped(seed=3)[0][:40]):
                writer.append(
                    id=f"={i}.png", source=f"p/{i}.png", embedding=row, width=4, height=3, sha256=None,
                    attributes={"user": i % 4} if i else {},
                )  # fmt: skip
    finally:
        os.chdir(before)
    return root


def export(folder: Path, *argv: str) -> int:
    return arguments.main(["export", str(folder / "model"), *argv])


def test_for_labelling(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The three forms say the same of every image; relative sources begin where they were embedded."""
    stored = str(folder / "embeddings")
    for form, name in (("csv", "l.csv"), ("coco", "l.json"), ("label-studio", "t.json")):
        assert export(folder, stored, "--to", form, "-o", str(folder / name)) == 0
    assert capsys.readouterr().out.startswith(f"40 images in {folder / 'l.csv'}\n")
    with (folder / "l.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[5]["id"] == "'=5.png"
    assert rows[5]["source"] == str(folder / "work/p/5.png")
    predicted = fitted().model.predict(next(iter_embeddings(folder / "embeddings")).vectors).labels
    assert [int(row["cluster"]) for row in rows] == predicted.tolist()
    coco = json.loads((folder / "l.json").read_text())
    found = {one["image_id"]: one["category_id"] for one in coco["annotations"]}
    assert found == {n: label for n, label in enumerate(predicted.tolist(), 1) if label >= 0}
    tasks = json.loads((folder / "t.json").read_text())
    chosen = [
        t["predictions"][0]["result"][0]["value"]["choices"][0] if t["predictions"] else "other"
        for t in tasks
    ]
    assert chosen == [row["label"] for row in rows]
    assert (folder / "t.xml").exists()


def test_training_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without images, those that the model was fitted on; COCO lacks their sizes and says so."""
    assert export(folder, "--to", "csv", "-o", str(folder / "training.csv"), "--prefix", "s3://b/") == 0
    with (folder / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(fitted().model.labels_)
    assert all(row["source"] == "s3://b/" + row["id"] for row in rows)
    assert export(folder, "--to", "coco", "-o", str(folder / "training.json")) == 1
    assert "COCO needs the sizes" in capsys.readouterr().err


def test_distributions_by_user(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each user's weights add up to 1; the image without a user is counted."""
    out = folder / "users.parquet"
    argv = [str(folder / "embeddings"), "--to", "distributions", "--by", "user", "-o", str(out)]
    assert export(folder, *argv) == 0
    printed = capsys.readouterr()
    assert printed.out == f"distributions of 4 groups of 39 images in {out}\n"
    assert "1 images do not have 'user'" in printed.err
    sums: defaultdict[str, float] = defaultdict(float)
    for row in pq.read_table(out).to_pylist():
        sums[row["group"]] += row["weight"]
    assert sums == {str(n): pytest.approx(1) for n in range(4)}


class Encoder:
    """The encoder of the model, which sees nothing but brightness."""

    identity = ENCODER

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        rows = np.random.default_rng(0).normal(size=(256, ENCODER.dim)).astype(np.float32)
        seen = rows[pixels.mean(axis=(1, 2, 3)).astype(int)]
        return (seen / np.linalg.norm(seen, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def test_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures are read for their sizes and places; a broken one is printed, and the others are there."""
    monkeypatch.setattr(loading, "encoder_of", lambda *_: Encoder())
    (folder / "work/pictures").mkdir()
    for name, size in (("a.png", (40, 30)), ("b.png", (20, 50))):
        Image.new("RGB", size, "white").save(folder / "work/pictures" / name)
    (folder / "work/pictures/c.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    monkeypatch.chdir(folder / "work")
    for form, name in (("coco", "p.json"), ("label-studio", "q.json")):
        assert export(folder, "pictures", "--to", form, "-o", name) == 0
    printed = capsys.readouterr()
    assert "1 failed: decode-failed" in printed.err
    images = json.loads(Path("p.json").read_text())["images"]
    assert [(one["file_name"], one["width"], one["height"]) for one in images] == [
        ("a.png", 40, 30),
        ("b.png", 20, 50),
    ]
    tasks = json.loads(Path("q.json").read_text())
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d={str(folder)[1:]}/work/pictures/a.png"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["e", "--to", "csv", "-o", "a.json"], "csv is written as .csv, got 'a.json'"),
        (["e", "--to", "csv", "-o", "a.csv", "--by", "user"], "--by makes groups for --to distributions"),
        (["--to", "distributions", "-o", "a.parquet", "--by", "user"], "give the embeddings folder"),
        (
            ["e", "--to", "distributions", "-o", "a.parquet", "--prefix", "x"],
            "--prefix is for label-studio, coco",
        ),
    ],
)
def test_refusals(folder: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(folder, *argv) == 1
    assert message in capsys.readouterr().err


def test_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of its own kind: it holds the rows, and nobody encodes pictures for it."""
    rows = grouped()[0][:20]
    pq.write_table(
        pa.table({"photo": [f"{i}" for i in range(20)], "v": [(7 * row).tolist() for row in rows]}),
        tmp_path / "f.parquet",
    )
    argv = ["import", str(tmp_path / "f.parquet"), "-o", str(tmp_path / "e"), "--encoder-name", "acme"]
    assert arguments.main([*argv, "--id", "photo"]) == 1
    assert "needs --id COLUMN and --vector COLUMN" in capsys.readouterr().err
    assert arguments.main([*argv, "--id", "photo", "--vector", "v"]) == 0
    assert capsys.readouterr().out == f"20 embeddings in {tmp_path / 'e'}\n"
    found = next(iter_embeddings(tmp_path / "e"))
    np.testing.assert_allclose(found.vectors, rows, atol=1e-3)
    with pytest.raises(EncoderError, match="embeddings of 'acme' were imported, so images cannot be encoded"):
        loading.encoder(found.identity)
    np.save(tmp_path / "v.npy", rows)
    argv[1], argv[3] = str(tmp_path / "v.npy"), str(tmp_path / "n")
    assert arguments.main([*argv, "--id", "photo"]) == 1
    assert "has no columns" in capsys.readouterr().err
    assert arguments.main(argv) == 0
    argv[1] = str(tmp_path / "v.csv")
    assert arguments.main(argv) == 1
    assert "must end in .parquet or .npy" in capsys.readouterr().err


def test_imported_rows_are_fitted_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way without an encoder: the clusters get no names, which a line says."""
    np.save(tmp_path / "v.npy", grouped(groups=3)[0])
    for argv in (
        ["import", "v.npy", "-o", "e", "--encoder-name", "mini"],
        [
            "fit",
            "e",
            "-o",
            "m",
            "--quiet",
            "--near",
            "1.1",
            "--min-cluster-size",
            "8",
            "--no-thumbnails",
            "--set",
            "consensus=0",
        ],
        ["export", "m", "e", "--to", "csv", "-o", "l.csv"],
    ):
        paths = [str(tmp_path / word) if word in {"v.npy", "e", "m", "l.csv"} else word for word in argv]
        assert arguments.main(paths) == 0, capsys.readouterr().err
    assert "get no names: the embeddings of 'mini' were imported" in capsys.readouterr().err
    with (tmp_path / "l.csv").open(newline="") as file:
        labels = {row["label"] for row in csv.DictReader(file)}
    assert labels - {"other"} == {"cluster 0", "cluster 1", "cluster 2"}
