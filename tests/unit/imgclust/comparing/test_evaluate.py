"""Clusters against given labels: figures on cases that can be counted by hand, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.comparing import evaluation_output
from imgclust.comparing.evaluate import evaluate, evaluate_labels, read_labels
from imgclust.comparing.images import predict_images
from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import ImgclustError
from imgclust.model.parts import Cluster
from imgclust.types import OTHER
from tests.support.fitted import ENCODER, fitted, grouped

KNOWN = [Cluster(3, "cats", 0), Cluster(7, None, 0)]
LABELS = st.lists(st.tuples(st.sampled_from([3, 7, OTHER]), st.sampled_from("abc")), min_size=1, max_size=60)


@given(LABELS)
def test_figures_agree_with_a_count_by_hand(pairs: list[tuple[int, str]]) -> None:
    ids = [str(i) for i in range(len(pairs))]
    labels = dict(zip(ids, (label for _, label in pairs), strict=True))
    found = evaluate_labels(ids, [cluster for cluster, _ in pairs], KNOWN, labels)
    assert [cluster.number for cluster in found.clusters] == [3, 7, OTHER]
    for cluster in found.clusters:
        own = [label for number, label in pairs if number == cluster.number]
        assert dict(cluster.labels) == {label: own.count(label) for label in set(own)}
    inside = [pair for pair in pairs if pair[0] != OTHER]
    best = sum(max(inside.count((n, label)) for label in "abc") for n in (3, 7))
    assert found.purity == (best / len(inside) if inside else None)
    assert found.other == pytest.approx(1 - len(inside) / len(pairs))
    records = evaluation_output.records(found)
    assert sum(row["images"] for row in records) == len(pairs)


def test_clusters_that_are_the_labels() -> None:
    """AMI is 1 for equal groups, whatever they are called; what lacks a label or an image is counted."""
    ids = ["a", "b", "c", "d", "e"]
    found = evaluate_labels(ids, [3, 3, 7, 7, 7], KNOWN, {"a": "x", "b": "x", "c": "y", "d": "y", "z": "y"})
    assert (found.ami, found.purity, found.other) == (pytest.approx(1), 1, 0)
    assert (found.images, found.unlabelled, found.unknown) == (4, 1, 1)


def test_a_models_own_labels_agree_with_it() -> None:
    """The labels of the fit: what is predicted for training images agrees with nearly all of them."""
    model = fitted().model
    labels = dict(zip(model.map["id"].to_pylist(), map(str, model.map["cluster"].to_pylist()), strict=True))
    found = evaluate(model, labels)
    assert found.images == len(model.labels_)
    assert found.unknown == len(labels) - found.images > 0, "images that were held out"
    assert found.ami > 0.8
    assert found.held_out == model.figures["test"]
    assert found.held_out
    text = "\n".join(evaluation_output.lines(found))
    assert "held out when the model was fitted" in text


def test_only_labelled_images_of_a_folder_are_predicted(tmp_path: Path) -> None:
    """The others are counted, shard by shard; one of them shows how ids look where no label fits."""
    found = fitted()
    rows = found.model.arrays["embeddings"][:30]
    with EmbeddingsWriter(tmp_path, ENCODER, shard_rows=10) as writer:
        for i, row in enumerate(rows):
            writer.append(id=f"{i}", source="x", embedding=row, width=1, height=1, sha256=None)
    predicted = predict_images([found.model], tmp_path, {"3", "25", "nobody", "\udcff"})
    assert [str(image) for image in predicted.ids] == ["3", "25"]
    expected = found.model.predict(rows[[3, 25]].astype(np.float32)).labels
    assert predicted.labels[0].tolist() == expected.tolist()
    assert (predicted.left_out, predicted.example) == (28, "0")
    assert evaluate(found.model, {"3": "x", "4": "y"}, tmp_path).unlabelled == 28
    with pytest.raises(ImgclustError, match=r"one of the 30 images; an image's is '0'"):
        evaluate(found.model, {"nobody": "x"}, tmp_path)


def test_drift_of_a_folder(tmp_path: Path) -> None:
    """Images of one cluster alone are other images than those held out; images like these are not."""
    model, (rows, _) = fitted().model, grouped(seed=8)
    one = model.predict(rows).labels == model.clusters[0].id
    for name, chosen in (("all", rows), ("one", rows[one])):
        with EmbeddingsWriter(tmp_path / name, ENCODER) as writer:
            for i, row in enumerate(chosen):
                writer.append(id=f"{i}", source="x", embedding=row, width=1, height=1, sha256=None)
    labels = {f"{i}": "x" for i in range(int(one.sum()))}
    drifted = evaluate(model, labels, tmp_path / "one")
    text = "\n".join(evaluation_output.lines(drifted))
    trained_on = model.arrays["embeddings"][:5].astype(np.float32)
    with EmbeddingsWriter(tmp_path / "one", ENCODER) as writer:
        for i, row in enumerate(trained_on):
            writer.append(id=f"t{i}", source="x", embedding=row, width=1, height=1, sha256=None)
    again = evaluate(model, labels | {f"t{i}": "x" for i in range(5)}, tmp_path / "one")
    assert drifted.drift is not None
    assert again.drift is not None
    assert again.drift.tally.images == drifted.drift.tally.images == len(labels)
    of = f"drift of {len(labels)} images that were not trained on, against 60 held-out ones"
    assert f"{of}: clusters drifted (" in text
    assert f"  #{model.clusters[0].id}  " in text
    assert "→ 100.0 %" in text
    assert evaluation_output.as_json(drifted)["drift"]["clusters"]["verdict"] == "drifted"
    steady = evaluate(model, {f"{i}": "x" for i in range(len(rows))}, tmp_path / "all")
    assert "clusters steady (" in "\n".join(evaluation_output.lines(steady))
    assert evaluate(model, dict.fromkeys(map(str, range(5)), "x")).drift is None


def test_ids_that_do_not_occur() -> None:
    with pytest.raises(ImgclustError, match=r"none of the 1 labelled ids, like 'b', .* 'a': give ids"):
        evaluate_labels(["a"], [3], KNOWN, {"b": "x"})
    with pytest.raises(ImgclustError, match="one of the 0 images: give ids"):
        evaluate_labels([], [], KNOWN, {"b": "x"})


def test_labels_are_read(tmp_path: Path) -> None:
    """As a spreadsheet-safe table writes them, with other columns beside them."""
    (tmp_path / "labels.csv").write_text("label,more,id\ncat,1,'=a\ndog,2,b\ndog,2,b\n")
    assert read_labels(tmp_path / "labels.csv") == {"=a": "cat", "b": "dog"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,label\n", "has no labels"),
        ("", "no header"),
        ("id,label\na, \n", "row 1 has an empty label"),
        ("id,label\na,x\n,y\n", "row 2 has an empty id"),
        ("id,name\na,x\n", "has no label: the file needs the columns id and label, has 'id', 'name'"),
        ("id,label\na,x\na,y\n", "row 2 gives 'a' the label 'y', an earlier row 'x'"),
        ('id,label\n"a,x\n', "row 1 cannot be read"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ImgclustError, match=says):
        read_labels(tmp_path / "labels.csv")
