"""`imgclust search`, as people type it, with an encoder that is there already."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.cli import arguments
from imgclust.embedding.embed import embed
from imgclust.embedding.torch_encoder import TorchEncoder


@pytest.fixture(scope="module")
def folder(mini: TorchEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of noise, embedded."""
    root = tmp_path_factory.mktemp("search")
    (root / "pictures").mkdir()
    for seed in range(6):
        pixels = np.random.default_rng(seed).integers(0, 255, (2 + 4 * seed, 8, 3)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((64, 64)).save(file, "PNG")
        (root / "pictures" / f"={seed}.png").write_bytes(file.getvalue())
    embed([root / "pictures"], root / "embeddings", mini, progress=False)
    return root


@pytest.fixture(autouse=True)
def loaded(mini: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's encoder in place of loading it for every command."""
    import imgclust.embedding.encoder

    monkeypatch.setattr(imgclust.embedding.encoder, "load_encoder", lambda *_, **__: mini)


def test_like_a_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The picture itself comes first, with a cosine of 1 and never more."""
    picture = folder / "pictures" / "=3.png"
    assert arguments.main(["search", str(folder / "embeddings"), "--like", str(picture), "-n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["1.0000", "=3.png"]


def test_to_a_table_and_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(folder / "pictures" / "=3.png")
    for name in ("found.csv", "found.html"):
        command = ["search", str(folder / "embeddings"), "--like", picture, "-o", str(folder / name)]
        assert arguments.main(command) == 0
        assert capsys.readouterr().out == f"6 images in {folder / name}\n"
    with (folder / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == list("123456")
    assert rows[0]["id"] == "'=3.png", "no formula for a spreadsheet"
    assert (folder / "found.html").read_text().count("data:image/webp") == 6


def test_refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings = str(folder / "embeddings")
    assert arguments.main(["search", embeddings, "zzz"]) == 1
    assert "search with --like PICTURE" in capsys.readouterr().err
    assert arguments.main(["search", embeddings, "x", "--cluster", "3"]) == 1
    assert "give the model first" in capsys.readouterr().err
    assert arguments.main(["search", embeddings, "x", "-o", "found.txt"]) == 1
    assert "must end in one of" in capsys.readouterr().err
