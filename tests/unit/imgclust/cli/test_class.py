"""`imgclust class` and `imgclust golden`, as people type them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.cli import arguments, loading
from imgclust.embedding import store_columns
from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import EncoderError
from imgclust.model.model import ClusterModel
from tests.support.fitted import ENCODER, fitted, grouped


def write(folder: Path, rows: np.ndarray, prefix: str, picture: Path | None = None) -> None:
    with EmbeddingsWriter(folder, ENCODER) as writer:
        for i, row in enumerate(rows):
            source = str(picture) if picture else ""
            writer.append(id=f"{prefix}{i}", source=source, embedding=row, width=1, height=1, sha256=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, examples of kind 6, a folder with images of all kinds, and its labels."""
    root = tmp_path_factory.mktemp("class")
    fitted().model.save(root / "model")
    rows, group = grouped(seed=1, groups=8, each=15)
    Image.new("RGB", (300, 200), "red").save(root / "red.png")
    write(root / "examples", rows[group == 6], "example ", root / "red.png")
    rows, group = grouped(seed=5, groups=8, each=15)
    write(root / "embeddings", rows, "")
    names = np.where(group == 6, "receipts", group.astype(str))
    lines = [f"{i},{name}" for i, name in enumerate(names.tolist())]
    (root / "labels.csv").write_text("\n".join(["id,label", *lines]))
    return root


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder / "model", tmp_path / "model")
    return tmp_path / "model"


def imgclust(*words: str | Path) -> int:
    return arguments.main(list(map(str, words)))


def test_add_list_and_remove(folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Precision, recall and what is assumed are printed; the class is in the folder, in `clusters` and in the
    log; removed, it is gone."""
    assert (
        imgclust("class", model, "add", "receipts", "--examples", folder / "examples", "--who", "anna") == 0
    )
    printed = capsys.readouterr().out
    assert "class 6 'receipts' added, made of 15 examples" in printed
    assert "precision 1.000 (wanted 0.95), recall " in printed
    training = len(fitted().model.labels_)
    assert (
        f"assuming that none of {training} images shows it, and that it is as frequent as the 15" in printed
    )
    loaded = ClusterModel.load(model)
    assert loaded.name(6) == "receipts"
    assert {loaded.thumbnails[image][8:12] for image in loaded.clusters[-1].exemplars} == {b"WEBP"}
    assert imgclust("class", model, "list") == 0
    assert "6  receipts: cosine 0." in capsys.readouterr().out
    assert imgclust("clusters", model) == 0
    assert "receipts (class)" in capsys.readouterr().out
    assert imgclust("edit", model, "log") == 0
    assert "anna" in capsys.readouterr().out
    assert imgclust("class", model, "remove", "receipts") == 0
    assert "class 6 removed" in capsys.readouterr().out
    assert imgclust("class", model, "list") == 0
    assert "has no classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "remedy"),
    [("class {model} add receipts --examples {all}", "a few hundred pictures are enough"),
     ("class {model} add receipts --examples {examples} --on {all}", "leave --on out"),
     ("duplicates {all}", "--near 2 finds equal files"),
     ("tune {all} -o {model}/tuning", "train on fewer (max_train, now 200000)"),
     ("fit {all} -o {model}/next --max-train 100", "train on fewer (max_train, now 100)")],
)  # fmt: skip
def test_what_memory_does_not_hold_is_refused(
    folder: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    command: str, remedy: str,
) -> None:  # fmt: skip
    """In a sentence that names what to do, by every command that holds a folder's embeddings."""
    monkeypatch.setattr(store_columns, "available_memory", lambda: 10_000)
    places = {"model": model, "examples": folder / "examples", "all": folder / "embeddings"}
    assert imgclust(*command.format(**places).split()) == 1
    said = capsys.readouterr().err
    assert "0.0 GB are available" in said
    assert remedy in said


def test_labels_judge_a_class(folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of the folder that have its name as their label show it; those with another one do not."""
    add = (
        "class",
        model,
        "add",
        "receipts",
        "--examples",
        folder / "examples",
        "--on",
        folder / "embeddings",
    )
    assert imgclust(*add, "--labels", folder / "labels.csv", "-o", model.with_name("next")) == 0
    assert "on 15 labelled images of it and 105 others" in capsys.readouterr().out
    assert not [c for c in ClusterModel.load(model).clusters if c.is_class]
    assert [c.name for c in ClusterModel.load(model.with_name("next")).clusters if c.is_class] == ["receipts"]
    assert imgclust(*add) == 1
    assert "perhaps they do" in capsys.readouterr().err
    assert imgclust("class", model, "add", "bills", *add[4:], "--labels", folder / "labels.csv") == 1
    assert "no image in the folder has the label 'bills'; the labels are '0'" in capsys.readouterr().err


class TextEncoder:
    """Knows one phrase: the mean of kind 6."""

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        if "cannot" in texts[0]:
            raise EncoderError("the encoder 'mini' has no text tower")
        rows, group = grouped(seed=1, groups=8, each=15)
        mean = rows[group == 6].mean(axis=0, keepdims=True)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)


def test_phrases(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A phrase needs labelled images, and an encoder that reads texts."""
    monkeypatch.setattr(loading, "encoder_of", lambda *_: TextEncoder())
    add = ("class", model, "add", "receipts", "--on", folder / "embeddings", "--phrase")
    assert imgclust(*add, "a photo of a receipt") == 1
    assert "a phrase alone does not tell how similar" in capsys.readouterr().err
    assert imgclust(*add, "what it cannot read", "--labels", folder / "labels.csv") == 1
    assert "has no text tower" in capsys.readouterr().err
    assert imgclust(*add, "a photo of a receipt", "--labels", folder / "labels.csv") == 0
    assert "cosine 0." in (printed := capsys.readouterr().out)
    assert "to the phrase 'a photo of a receipt'" in printed
    rows, group = grouped(seed=9, groups=8, each=15)
    labels = ClusterModel.load(model).predict(rows).labels
    assert (labels[group == 6] == 6).mean() > 0.8
    assert (labels[group != 6] == 6).mean() < 0.05


def test_golden(folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Added by id, listed, checked with an exit code, removed."""
    on = ("--on", folder / "embeddings")
    assert imgclust("class", model, "add", "receipts", "--examples", folder / "examples") == 0
    rows, group = grouped(seed=5, groups=8, each=15)
    receipt = int(
        np.flatnonzero(group == 6)[ClusterModel.load(model).predict(rows[group == 6]).labels == 6][0]
    )
    other = int(np.flatnonzero(group == 0)[0])
    capsys.readouterr()
    assert imgclust("golden", model, "add", "--id", receipt, *on, "--class", "receipts") == 0
    assert imgclust("golden", model, "add", "--id", other, *on, "--not", 6) == 0
    assert capsys.readouterr().err == ""
    assert imgclust("golden", model, "check") == 0
    assert "2 of 2 golden images are where they must be" in capsys.readouterr().out
    assert imgclust("golden", model, "add", "--id", other, *on, "--class", "6") == 0
    assert "must be in #6 receipts" in capsys.readouterr().err
    assert imgclust("golden", model, "check") == 1
    assert f"  {other} is in #" in capsys.readouterr().out
    assert imgclust("golden", model, "list") == 0
    assert f"{receipt}  must be in #6 receipts" in capsys.readouterr().out
    labels = folder / "labels.csv"
    assert imgclust("evaluate", model, "--labels", labels, *on) == 0
    assert "2 of 3 golden images are where they must be" in capsys.readouterr().out
    assert imgclust("golden", model, "remove", str(other)) == 0
    assert imgclust("golden", model, "check") == 0
    assert imgclust("golden", model, "add", "--id", "nobody", "--cluster", 0) == 1
    assert "'nobody' is not of the model" in capsys.readouterr().err
