"""What a fit reads of a large folder: as many as it wants, always the same, and the rest is predicted."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from imgclust.cli.arguments import main
from imgclust.cli.fit import _chosen_rows
from imgclust.embedding import store_columns
from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import EmbeddingsError, FitError
from imgclust.training import sample
from imgclust.training.fit import fit
from imgclust.training.sample import read_sample
from imgclust.types import OTHER
from tests.support.fitted import ENCODER, SMALL, fitted, grouped

ROWS = grouped()[0]


def folder_of(path: Path, order: np.ndarray, shard_rows: int = 37) -> Path:
    with EmbeddingsWriter(path, ENCODER, shard_rows=shard_rows) as writer:
        for row in order:
            writer.append(id=f"{row}.png", source="", embedding=ROWS[row], width=1, height=1, sha256=None)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "embeddings", np.arange(300))


def test_a_small_folder_is_read_whole(folder: Path) -> None:
    found = read_sample(folder, 240, 0.2)
    assert len(found.embeddings) == 300
    assert len(found.left) == 0
    assert found.rest(fitted().model) == (0, 0)


def test_the_order_of_images_is_of_no_influence(folder: Path, tmp_path: Path) -> None:
    """Nor are shards; and each image has its own embedding."""
    other = folder_of(tmp_path / "other", np.random.default_rng(0).permutation(300), shard_rows=100)
    one, two = (read_sample(path, 80, 0.2).embeddings for path in (folder, other))
    assert len(one) == 100
    assert sorted(one.ids) == sorted(two.ids)
    for found in (one, two):
        rows = [int(name.removesuffix(".png")) for name in found.ids]
        assert np.array_equal(found.vectors, ROWS[rows])


def test_more_images_put_few_out(tmp_path: Path) -> None:
    """Of a sample of a third, those stay whose hash is still among the smallest: no others come in."""
    small = set(read_sample(folder_of(tmp_path / "a", np.arange(250)), 80, 0.2).embeddings.ids)
    large = set(read_sample(folder_of(tmp_path / "b", np.arange(300)), 80, 0.2).embeddings.ids)
    new = {f"{row}.png" for row in range(250, 300)}
    assert large - small <= new
    assert large & new


def test_the_rest_is_predicted(folder: Path) -> None:
    """Each image once, in the sample or in the rest."""
    found, passed = read_sample(folder, 80, 0.2), []
    model = fitted().model
    images, other = found.rest(model, passed.append)
    rest = sorted({f"{row}.png" for row in range(300)} - set(found.embeddings.ids))
    rows = [int(name.removesuffix(".png")) for name in rest]
    assert images == len(rest) == 200
    assert other == int((model.predict(ROWS[rows]).labels == OTHER).sum())
    assert sum(passed) == 200


def test_of_some_images_only(folder: Path) -> None:
    """Those that were chosen before are all that is read, or predicted."""
    among = np.flatnonzero(np.arange(300) % 2)
    whole = read_sample(folder, 240, 0.2, among)
    assert whole.embeddings.ids == [f"{row}.png" for row in among]
    assert np.array_equal(whole.embeddings.vectors, ROWS[among])
    found = read_sample(folder, 80, 0.2, among)
    read = [int(name.removesuffix(".png")) for name in found.embeddings.ids]
    assert len(read) == 100
    assert sorted([*read, *found.left.tolist()]) == among.tolist()
    assert set(found.embeddings.ids) <= set(whole.embeddings.ids)
    assert found.rest(fitted().model)[0] == 50


def test_memory_is_asked_for_before_anything_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes of what would be read, which a smaller sample is less of."""
    monkeypatch.setattr(store_columns, "available_memory", lambda: 200 * (12 * 24 + 1_087))
    assert len(read_sample(folder, 160, 0.2).embeddings) == 200
    monkeypatch.setattr(sample, "read_rows", lambda *_: pytest.fail("it was read"))
    with pytest.raises(FitError, match=r"reading 300 embeddings of 24 numbers.*max_train, now 1000"):
        read_sample(folder, 1000, 0.2)


def test_no_embeddings(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingsError, match="no embeddings in"):
        read_sample(tmp_path, 100, 0.2)


def test_another_encoders_model_is_refused_for_the_rest(folder: Path) -> None:
    other = dataclasses.replace(fitted().model, encoder=dataclasses.replace(ENCODER, weights="1" * 64))
    with pytest.raises(EmbeddingsError, match="embed the images again"):
        read_sample(folder, 80, 0.2).rest(other)


def test_the_command_trains_on_a_sample(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says what became of the rest, and how to have it."""
    small = [f"--set={name}={value}" for name, value in {**SMALL, "refits": 1}.items()]
    options = ["--max-train", "160", "--no-names", "--no-thumbnails", "--quiet", *small]
    assert main(["fit", str(folder), "-o", str(tmp_path / "model"), *options]) == 0
    said = capsys.readouterr().out
    assert "training on 160 images, 40 held out" in said
    assert re.search(r"100 other images: \d+\.\d% of them in no cluster", said)
    assert f"imgclust predict MODEL {folder}" in said


def test_python_reads_a_sample_of_a_folder_too(folder: Path) -> None:
    """And says which images its labels are of."""
    read = read_sample(folder, 160, 0.2).embeddings
    found = fit(folder, max_train=160, parameters={**SMALL, "refits": 1}, thumbnails=False)
    assert found.ids == read.ids
    assert len(found.labels) == 200
    assert len(found.split.train) == 160


def test_the_command_chooses_among_a_folder_in_batches(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a condition, and by a model's cluster among what is left."""
    fitted().model.save(tmp_path / "model")
    cluster = int(np.bincount(fitted().labels[fitted().labels >= 0]).argmax())
    chosen = np.flatnonzero(fitted().model.predict(ROWS).labels == cluster)
    chosen = [row for row in chosen if row < 280]
    arguments = argparse.Namespace(
        embeddings=folder, where="id < '280' or length(id) < 7", within=(tmp_path / "model", str(cluster))
    )
    assert _chosen_rows(arguments).tolist() == chosen
    assert capsys.readouterr().out == f"{len(chosen)} images chosen\n"
