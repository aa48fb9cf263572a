"""`imgclust compare` and `imgclust evaluate`, as people type them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from imgclust.cli import arguments
from imgclust.embedding.store import EmbeddingsWriter
from tests.support.fitted import ENCODER, fitted, grouped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, one in which two of its clusters are merged, an embeddings folder, and its labels."""
    root, model = tmp_path_factory.mktemp("compare"), fitted().model
    model.save(root / "model")
    model.edit(who="test").merge(*(int(number) for number in model.numbers[:2])).save(root / "merged")
    rows, group = grouped(seed=5, each=10)
    with EmbeddingsWriter(root / "embeddings", ENCODER) as writer:
        for i, row in enumerate(rows):
            writer.append(id=f"{i}", source="", embedding=row, width=1, height=1, sha256=None)
    lines = [f"{i},group {kind}" for i, kind in enumerate(group.tolist())]
    (root / "labels.csv").write_text("\n".join(["id,label", *lines, "nobody,x"]))
    return root


def test_compare_with_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(folder / "model")
    assert arguments.main(["compare", model, model]) == 0
    assert capsys.readouterr().out.startswith("0 of ")


@pytest.mark.parametrize("where", [(), ("--on", "embeddings")])
def test_compare_with_an_edited_model(
    folder: Path, where: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A merger, on training images and on a folder; as a table, JSON and CSV."""
    command = ["compare", str(folder / "model"), str(folder / "merged")]
    command += [str(folder / word) if word == "embeddings" else word for word in where]
    first, second = fitted().model.numbers[:2].tolist()
    assert arguments.main([*command, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    merged = next(cluster for cluster in found["clusters"] if cluster["cluster"] == second)
    assert merged["fate"] == "merged into"
    assert merged["parts"] == [
        {"cluster": first, "name": merged["parts"][0]["name"], "images": merged["images"], "share": 1.0}
    ]
    assert found["moved"] == merged["images"] > 0
    assert arguments.main(command) == 0
    assert f"merged into #{first}" in capsys.readouterr().out
    assert arguments.main([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    moves = [row for row in rows if row["what"] == "moves"]
    assert len(moves) == min(50, found["moved"])
    assert {(row["before"], row["after"]) for row in moves} == {(str(second), str(first))}


def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Groups that the model was fitted on are found again; ids of no image are counted on stderr."""
    command = ["evaluate", str(folder / "model"), "--labels", str(folder / "labels.csv")]
    command += ["--on", str(folder / "embeddings")]
    assert arguments.main(command) == 0
    printed = capsys.readouterr()
    assert "AMI" in printed.out
    assert "1 of 61 labelled ids are not in the folder" in printed.err
    for name in ("found.csv", "found.json", "found.txt"):
        assert arguments.main([*command, "-o", str(folder / name)]) == 0
        assert capsys.readouterr().out == f"written to {folder / name}\n"
    found = json.loads((folder / "found.json").read_text())
    assert found["ami"] > 0.8
    assert (folder / "found.txt").read_text() == printed.out
    with (folder / "found.csv").open(newline="") as file:
        assert sum(int(row["images"]) for row in csv.DictReader(file)) == found["images"] == 60


def test_refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(folder / "model")
    assert arguments.main(["compare", model, model, "-o", "found.xls"]) == 1
    assert "must end in one of .txt, .csv, .json" in capsys.readouterr().err
    assert arguments.main(["compare", model, str(folder / "embeddings")]) == 1
    assert "is not a model folder" in capsys.readouterr().err
    (folder / "wrong.csv").write_text("id,label\nnobody,x\n")
    assert arguments.main(["evaluate", model, "--labels", str(folder / "wrong.csv")]) == 1
    assert "none of the 1 labelled ids" in capsys.readouterr().err
