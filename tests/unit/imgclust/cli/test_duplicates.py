"""`imgclust duplicates`: true copies are shown, pictures that only share their middle are not."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.cli import arguments
from imgclust.embedding.embed import embed
from imgclust.embedding.store import EmbeddingsWriter, read_embeddings
from imgclust.embedding.torch_encoder import TorchEncoder
from tests.support.fitted import ENCODER, grouped
from tests.unit.imgclust.images.test_perceptual import clef


@pytest.fixture(scope="module")
def folder(mini: TorchEncoder, clipart: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bird, the same file again, a smaller copy of it, and two pictures that share their middle only."""
    root = tmp_path_factory.mktemp("duplicates")
    (root / "pictures").mkdir()
    shutil.copy(clipart / "mammals" / "0100.jpg", root / "pictures" / "a.jpg")
    shutil.copy(clipart / "mammals" / "0100.jpg", root / "pictures" / "b.jpg")
    image = Image.open(root / "pictures" / "a.jpg").convert("RGB")
    image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(root / "pictures" / "c.png")
    (root / "pictures" / "left.png").write_bytes(clef(True))
    (root / "pictures" / "right.png").write_bytes(clef(False))
    embed([root / "pictures"], root / "embeddings", mini, progress=False)
    return root


def test_embed_keeps_hashes(folder: Path) -> None:
    """Both clefs are one picture to the encoder, and two to the hash."""
    found = read_embeddings(folder / "embeddings")
    row = {name: i for i, name in enumerate(found.ids)}
    assert found.vectors[row["left.png"]] @ found.vectors[row["right.png"]] > 0.999
    assert found.hashes[row["left.png"]] != found.hashes[row["right.png"]]
    assert found.hashes[row["a.jpg"]] == found.hashes[row["b.jpg"]]
    assert (found.hashes != 0).all()


def test_copies_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments.main(["duplicates", str(folder / "embeddings"), "--near", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 of 5 images are copies, in 1 groups: 1 equal files, 1 near duplicates"
    assert lines[0] == "a.jpg"
    assert lines[1] == "  equal file  b.jpg"
    assert lines[2].endswith("bits  c.png")


def test_to_a_table_and_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page shows the pictures, the table every column; no cosine is above 1."""
    for name in ("found.csv", "found.html"):
        command = ["duplicates", str(folder / "embeddings"), "--near", "0.9", "-o", str(folder / name)]
        assert arguments.main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    with (folder / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a.jpg", "b.jpg", "c.png"]
    assert [row["kept"] for row in rows] == ["True", "False", "False"]
    assert all(float(row["cosine"]) <= 1 for row in rows)
    assert (folder / "found.html").read_text().count("data:image/webp") == 3


def test_older_folders_are_compared_by_what_they_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows without a hash: the cosine alone counts, as before, and a line says so."""
    with EmbeddingsWriter(tmp_path, ENCODER) as writer:
        for i, row in enumerate(np.repeat(grouped()[0][:2], 2, axis=0)):
            writer.append(id=f"{i}", source="", embedding=row, width=1, height=1, sha256=None)
    assert arguments.main(["duplicates", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "4 images have no perceptual hash" in printed.err
    assert printed.out.splitlines() == [
        "0", "  cosine 1.0000  1", "2", "  cosine 1.0000  3",
        "2 of 4 images are copies, in 2 groups: 0 equal files, 2 near duplicates",
    ]  # fmt: skip
