"""`imgclust other`, `imgclust tune` and `fit --other-target`, as people type them."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from imgclust.cli import arguments, other_target
from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import ImgclustError
from imgclust.tuning import tune
from tests.support.fitted import ENCODER, grouped
from tests.unit.imgclust.explaining.test_other import explained, model


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.1", 0.1), ("0", 0.0), ("off", None)])
def test_shares(text: str, share: float | None) -> None:
    assert other_target.share(text) == share


@pytest.mark.parametrize("text", ["", "%", "100%", "-1", "ten", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="share"):
        other_target.share(text)


def test_labels(tmp_path: Path) -> None:
    """From a file, or the first folders of ids; a file that says nothing of the images is refused."""
    ids = ["cats/1.png", "dogs/2.png", "3.png"]
    assert other_target.labels_of(None, ids) is None
    assert other_target.labels_of("folders", ids) == ["cats", "dogs", None]
    file = tmp_path / "labels.csv"
    file.write_text("id,label\ncats/1.png,cat\n")
    assert other_target.labels_of(str(file), ids) == ["cat", None, None]
    with pytest.raises(ImgclustError, match="none of the 1 images"):
        other_target.labels_of(str(file), ["x"])


def test_offers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The target that was asked for is marked; where it is missed, a remark says so."""
    shared = {"score": 0.5, "assigned": 0.1, "right": 0.25, "judged": 8}
    offers = [
        {"target": 0.3, "other": 0.3, "score": None, "assigned": 0.0, "right": None, "judged": 0},
        {"target": 0.1, "other": 0.2, **shared},
    ]
    found = {"target": 0.1, "judged_by": "labels", "right_in_clusters": 0.75, "offers": offers}
    other_target.print_offers({"other_target": found})
    out, err = capsys.readouterr()
    marked = [line for line in out.splitlines() if "→" in line]
    assert len(marked) == 1
    assert "25% of 8" in marked[0]
    assert "75% are right" in out
    assert "more than the target" in err


def test_other_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, a CSV file and a page."""
    model().save(tmp_path / "model")
    page, table = tmp_path / "page.html", tmp_path / "other.csv"
    assert arguments.main(["other", str(tmp_path / "model"), "--page", str(page), "-o", str(table)]) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(explained().images)
    assert page.read_text().startswith("<!doctype html>")
    assert arguments.main(["other", str(tmp_path / "model"), "--format", "json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["kinds"] == explained().kinds()


def test_tune(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From an embeddings folder to a file of parameters, a table and a page; run again, it goes on."""
    pytest.importorskip("optuna", reason="needs the extra `tune`: pip install 'imgclust[tune]'")

    class Reducer:
        def __init__(self, rows: np.ndarray) -> None:
            self.embedding_ = rows[:, :5].copy()  # UMAP would take seconds

    monkeypatch.setattr(tune, "fit_umap", lambda rows, p: Reducer(rows))
    rows, group = grouped(each=20)
    with EmbeddingsWriter(tmp_path / "embeddings", ENCODER) as writer:
        for i, row in enumerate(rows):
            writer.append(id=f"{group[i]}/{i}", source="", embedding=row, width=1, height=1, sha256=None)
    folder = tmp_path / "tuning"
    command = ["tune", str(tmp_path / "embeddings"), "-o", str(folder), "--umaps", "1", "--aim", "ami"]
    assert arguments.main([*command, "--trials", "2"]) == 1
    assert "needs labels" in capsys.readouterr().err
    command += ["--labels", "folders"]
    assert arguments.main([*command, "--trials", "2"]) == 0
    assert arguments.main([*command, "--trials", "3"]) == 0
    out, err = capsys.readouterr()
    assert [f"trial {n} of" in err for n in (1, 2, 3)] == [True] * 3
    assert "best.toml" in out
    with (folder / "trials.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    assert "min_cluster_size = " in (folder / "best.toml").read_text()
    assert (folder / "trade-offs.html").exists()
