"""Runs on an engine that maps tables in this process: order, parts, failures. The real one: integration."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import hdbscan
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imgclust.embedding import encoder
from imgclust.embedding.embed import FAILED, embed
from imgclust.embedding.store import read_embeddings
from imgclust.engines import runs
from imgclust.engines.ray_data import Embedder, Workers
from imgclust.engines.runs import outcomes_on_ray, predict_on_ray
from imgclust.engines.steps import EmbedOptions
from imgclust.errors import EmbeddingsError, ImgclustError
from imgclust.images.decode import Limits
from imgclust.images.decoder_pool import DecoderPool
from imgclust.model.model import ClusterModel
from imgclust.tagging.files import write_rows
from imgclust.tagging.rows import predict_embeddings
from tests.support.fake_encoder import IDENTITY, FakeEncoder
from tests.support.fitted_stand_ins import umap_like


class Dataset:
    """What is used of Ray's: tables, and actors that map them."""

    def __init__(self, tables: list[pa.Table], actors: tuple[Any, ...] = ()) -> None:
        self._tables, self._actors = tables, actors

    def map_batches(self, step: Any, *, fn_constructor_kwargs: dict[str, Any], **_: object) -> Dataset:
        return Dataset(self._tables, (*self._actors, step(**fn_constructor_kwargs)))

    def iter_batches(self, **_: object) -> Iterator[pa.Table]:
        for table in self._tables:
            for actor in self._actors:
                table = actor(table)
            yield table


class RayError(Exception):
    pass


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Rows of the blocks of each dataset that was made."""
    made: list[list[int]] = []

    def from_arrow(tables: list[pa.Table]) -> Dataset:
        made.append([len(table) for table in tables])
        return Dataset(tables)

    ray, data, exceptions = (ModuleType(name) for name in ("ray", "ray.data", "ray.exceptions"))
    vars(exceptions).update(RayError=RayError)
    vars(data).update(from_arrow=from_arrow, ActorPoolStrategy=SimpleNamespace)
    vars(ray).update(data=data, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    monkeypatch.setattr(encoder, "load_encoder", lambda *_, **__: FakeEncoder())
    monkeypatch.setattr(EmbedOptions, "decoders", lambda _: decoders())
    return made


@cache
def decoders() -> DecoderPool:
    """One for all the actors of these tests."""
    return DecoderPool(1, IDENTITY.preprocessing, Limits(), hashed=True)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(23):
        Image.new("L", (9, 7), 10 * i).save(folder / f"{i:02d}.png")
    (folder / "09 cut.png").write_bytes((folder / "01.png").read_bytes()[:50])
    (folder / "text.txt").write_text("no picture")
    return folder


@cache
def model() -> ClusterModel:
    """Of the embeddings of 240 grey pictures."""
    side = IDENTITY.preprocessing.size
    pixels = np.arange(240, dtype=np.uint8)[:, None, None, None].repeat(side, 1).repeat(side, 2).repeat(3, 3)
    points = np.stack([np.arange(240) // 60 * 9.0, np.arange(240) % 60 / 30, np.zeros(240)], 1)
    points = (points + 0.2 * np.random.default_rng(0).normal(size=points.shape)).astype(np.float32)
    clusterer = hdbscan.HDBSCAN(min_cluster_size=12, min_samples=4, prediction_data=True).fit(points)
    return ClusterModel.from_fitted(
        umap_like(FakeEncoder().encode(pixels), points), clusterer, encoder=IDENTITY
    )


def rows_in(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def test_embedding(pictures: Path, tmp_path: Path, engine: list[list[int]]) -> None:
    """In parts and blocks of the sizes that were asked for: the same folder, list of failures and counts."""
    alone = embed([pictures], tmp_path / "alone", FakeEncoder(), progress=False)
    outcomes = outcomes_on_ray(EmbedOptions(IDENTITY), Workers(), part_rows=10, block_rows=4)
    summary = embed([pictures], tmp_path / "out", FakeEncoder(), progress=False, outcomes=outcomes)
    assert engine == [[4, 4, 2], [4, 4, 2], [4, 1]]
    assert (summary.embedded, summary.failed, summary.skipped) == (23, alone.failed, alone.skipped)
    expected, found = read_embeddings(tmp_path / "alone"), read_embeddings(tmp_path / "out")
    assert found.ids == expected.ids
    assert found.vectors.tobytes() == expected.vectors.tobytes()
    assert (tmp_path / "out" / FAILED).read_text() == (tmp_path / "alone" / FAILED).read_text()


def test_more_workers_get_more_at_once(
    pictures: Path, tmp_path: Path, engine: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four blocks each, so that shards stay large; never more than the most."""
    monkeypatch.setattr(runs, "PART_ROWS", 10)
    monkeypatch.setattr(runs, "MOST_ROWS", 15)
    for count, parts in ((1, [[2] * 5, [2] * 5, [2, 2, 1]]), (100, [[2] * 7 + [1], [2] * 5])):
        outcomes = outcomes_on_ray(EmbedOptions(IDENTITY), Workers(count), block_rows=2)
        embed([pictures], tmp_path / f"{count}", FakeEncoder(), progress=False, outcomes=outcomes)
        assert engine == parts
        engine.clear()


def test_relative_paths_begin_where_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For actors, too, which Ray starts elsewhere; a machine without that folder reads absolute paths."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options = EmbedOptions(IDENTITY)
    monkeypatch.chdir(tmp_path)
    Embedder(dataclasses.replace(options, folder=str(tmp_path / "nowhere")))
    assert Path.cwd() == tmp_path
    Embedder(options)
    assert Path.cwd() == tmp_path / "here"


OWN = """ray::MapWorker(MapBatches(ShardWriter)).submit() (pid=7)
  File "store.py", line 7, in write_apart
FileNotFoundError: [Errno 2] No such file or directory: '/out/x'
During handling of the above exception, another exception occurred:
imgclust.errors.EmbeddingsError: embeddings cannot be written to '/out': No such file or directory
The above exception was the direct cause of the following exception:
ray.exceptions.UserCodeException: UDF failed to process a data block."""
OTHER = """ray::MapWorker(MapBatches(ShardWriter)).submit() (pid=7)
  File "stream.py", line 7, in stream
RuntimeError: CUDA error
ray.exceptions.UserCodeException: UDF failed to process a data block."""


@pytest.mark.parametrize(
    ("text", "reason"),
    [(OWN, "embeddings cannot be written to '/out': No such file or directory"),
     (OTHER, "RuntimeError: CUDA error"), ("the head is gone", "the head is gone")],
)  # fmt: skip
def test_an_actors_error_is_a_sentence(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    def fails(*_: object, **__: object) -> Iterator[pa.Table]:
        raise RayError(text)
        yield

    monkeypatch.setattr(Dataset, "iter_batches", fails)
    outcomes = outcomes_on_ray(EmbedOptions(IDENTITY), Workers())
    with pytest.raises(ImgclustError) as failed:
        embed([pictures], tmp_path / "out", FakeEncoder(), progress=False, outcomes=outcomes)
    assert str(failed.value) == f"an actor on Ray failed: {reason}"


def test_predicting_goes_on_part_by_part(pictures: Path, tmp_path: Path, engine: list[list[int]]) -> None:
    """Of pictures and of embeddings: interrupted in the second part, run again, the rows are a lone run's."""
    embed([pictures], tmp_path / "alone", FakeEncoder(), progress=False)
    write_rows(predict_embeddings(model(), tmp_path / "alone"), tmp_path / "alone.parquet")
    expected = pq.read_table(tmp_path / "alone.parquet")
    for source, options in ((pictures, EmbedOptions(IDENTITY)), (tmp_path / "alone", None)):
        folder = tmp_path / f"tags of {source.name}"
        skipped: Counter[str] = Counter()
        predict = partial(
            predict_on_ray, model(), [str(source)], folder, options, Workers(), skipped=skipped,
            part_rows=10, block_rows=4, batch_rows=5,
        )  # fmt: skip

        def interrupt(_: int, folder: Path = folder) -> None:
            if list(folder.glob("part-*.json")):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            predict(advance=interrupt)
        first = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}
        assert len(first) == 1
        passed: list[int] = []
        parts = predict(advance=passed.append)
        assert {path: path.stat().st_mtime_ns for path in first} == first
        assert parts.present == sum(pq.read_metadata(path).num_rows for path in first)
        assert parts.rows + parts.present == 23
        assert rows_in(folder).equals(expected)
        assert sum(passed) == (25 if options else 23)
        assert dict(parts.failed) == ({"decode-failed": 1} if options else {})
        assert json.loads((folder / "manifest.json").read_text())["made_by"]["model"] == model().version


def test_another_encoders_images_are_refused(pictures: Path, tmp_path: Path) -> None:
    """Before a folder is made."""
    options = EmbedOptions(dataclasses.replace(IDENTITY, weights="1" * 64))
    with pytest.raises(EmbeddingsError, match="this model was fitted on"):
        predict_on_ray(model(), [str(pictures)], tmp_path / "out", options, Workers(), skipped=Counter())
    assert not (tmp_path / "out").exists()
