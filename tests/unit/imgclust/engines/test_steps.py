"""The steps of an engine: what a run alone gives, whatever the batches; what travels comes back as it was."""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
from collections import Counter
from collections.abc import Generator, Iterable
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imgclust.cli.arguments import main
from imgclust.embedding.embed import Stored, Target, embed
from imgclust.embedding.store import Embeddings, EmbeddingsWriter, read_embeddings, shard_batches, shards
from imgclust.embedding.stream import Embedded, EmbedOutcome, Failed, Skipped
from imgclust.engines.batches import (
    in_batches,
    items_of,
    of_items,
    of_outcomes,
    outcomes_of,
    report_of,
    to_be_written,
)
from imgclust.engines.ray_data import parts_of
from imgclust.engines.steps import PREDICTED, EmbedOptions, embed_batch, predict_batch, write_batch
from imgclust.errors import EmbeddingsError
from imgclust.images.sources import Item, items
from imgclust.model.model import ClusterModel
from imgclust.tagging.files import as_record, schema
from imgclust.tagging.rows import predict_rows
from tests.support.fake_encoder import IDENTITY, FakeEncoder
from tests.support.fitted_stand_ins import umap_like
from tests.support.frozen_pair import embeddings

ROWS, CLOUD = embeddings(200, 24, 4, seed=3)
IDENTITY_OF_ROWS = dataclasses.replace(IDENTITY, dim=24)


@cache
def model() -> ClusterModel:
    import hdbscan

    points = np.stack([CLOUD * 5.0, CLOUD, -CLOUD], 1) + np.random.default_rng(0).normal(size=(len(ROWS), 3))
    points = points.astype(np.float32)
    clusterer = hdbscan.HDBSCAN(min_cluster_size=12, min_samples=4, prediction_data=True).fit(points)
    return ClusterModel.from_fitted(umap_like(ROWS, points), clusterer)


def png(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (9, 7), brightness).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(11):
        (folder / f"{i:02d}.png").write_bytes(png(20 * i))
    (folder / "cut.png").write_bytes(png(1)[:50])
    (folder / "text.txt").write_text("no picture")
    return folder


def test_items_travel_as_they_are() -> None:
    """Names that are not UTF-8, attributes of any kind, bad rows of lists."""
    sent = [
        Item("a", "a.png"),
        Item("\\udce4", "/pictures/\udce4.png", named=False),
        Item("7", "https://h/x?y=1", attributes={"likes": 3, "lang": "dé", "ok": True}, fixed_id=True),
        Item("list.csv row 9", "list.csv", problem="row 9 of the list: its 'url' is empty"),
    ]
    assert items_of(of_items(sent)) == sent
    assert [item for batch in in_batches(sent, 3) for item in items_of(batch)] == sent


def test_outcomes_travel_as_they_are() -> None:
    """Also a slice of a batch, and one in which nothing was embedded."""
    item = Item("a", "a.png")
    embedded = Embedded(item, np.array([0.6, 0.8], np.float16).astype(np.float32), 3, 4, "ab", 2**63 + 5)
    sent: list[EmbedOutcome] = [
        Failed(item, "too-large", "\udce4 is large"),
        embedded,
        Skipped(item),
        embedded,
    ]
    for start in range(4):
        stored = [False, False, False, True][start:]
        report = report_of(of_outcomes(sent, 2).slice(start), stored, "a shard")
        assert report.column("shard").to_pylist() == ["a shard" if there else None for there in stored]
        assert report.column("embedding").is_valid().to_pylist() == [False, True, False, False][start:]
        found = outcomes_of(report, [item] * (4 - start))
        assert found.pop() == Stored(item, "ab")
        for one, other in zip(found, sent[start:3], strict=True):
            assert type(one) is type(other)
            assert one.item == other.item
            if isinstance(one, Embedded) and isinstance(other, Embedded):
                assert one.vector.tobytes() == other.vector.tobytes()
                assert (one.width, one.height, one.sha256, one.phash) == (3, 4, "ab", 2**63 + 5)


def written_apart(
    found: Iterable[Item], target: Target, *, rows: int
) -> Generator[list[EmbedOutcome | Stored]]:
    """What an engine does, a batch after the other."""
    rest = iter(found)
    while some := list(islice(rest, rows)):
        batch = to_be_written(some, map(target.is_contested, some))
        options = EmbedOptions(IDENTITY)
        report = write_batch(batch, FakeEncoder(), options, None, target.folder, target.columns)
        for shard in report.column("shard").unique().drop_null().to_pylist():
            target.adopt(shard)
        yield outcomes_of(report, some)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_embedding_in_batches_is_embedding_alone(pictures: Path, tmp_path: Path, rows: int) -> None:
    """Folder for folder: rows, ids, skipped and failed files."""
    alone = embed([pictures], tmp_path / "alone", FakeEncoder(), progress=False)
    outcomes = partial(written_apart, rows=rows)
    summary = embed([pictures], tmp_path / "out", FakeEncoder(), progress=False, outcomes=outcomes)
    assert (summary.embedded, summary.failed, summary.skipped) == (
        alone.embedded,
        alone.failed,
        alone.skipped,
    )
    expected, found = read_embeddings(tmp_path / "alone"), read_embeddings(tmp_path / "out")
    assert found.ids == expected.ids
    assert found.vectors.tobytes() == expected.vectors.tobytes()
    assert found.hashes.tolist() == expected.hashes.tolist()
    assert len(shards(tmp_path / "out")) == len(range(0, 11, rows))
    again = embed([pictures], tmp_path / "out", FakeEncoder(), progress=False, outcomes=outcomes)
    assert (again.embedded, again.present) == (0, 11)


def test_a_name_that_is_taken_is_decided_where_all_is_known(pictures: Path, tmp_path: Path) -> None:
    """Of another camera's pictures with the same names, one is the same picture, one gets an id of its
    content; they come back, and the one with a new name is written by the worker."""
    (other := tmp_path / "other").mkdir()
    (other / "03.png").write_bytes((pictures / "03.png").read_bytes())
    (other / "05.png").write_bytes(png(77))
    (other / "new.png").write_bytes(png(78))
    found: list[Embeddings] = []
    for folder, outcomes in (("alone", None), ("out", partial(written_apart, rows=100))):
        for sources, embedded in ((pictures, 11), (other, 2)):
            summary = embed([sources], tmp_path / folder, FakeEncoder(), progress=False, outcomes=outcomes)
            assert summary.embedded == embedded
        assert (summary.present, summary.renamed) == (1, 1)
        found.append(read_embeddings(tmp_path / folder))
    rows, alone = ({i: v.tobytes() for i, v in zip(e.ids, e.vectors, strict=True)} for e in found)
    assert rows == alone
    assert [len(pq.read_table(shard)) for shard in shards(tmp_path / "out")] == [11, 1, 1]


@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_predicting_in_batches_is_predicting_alone(tmp_path: Path, rows: int) -> None:
    """From an embeddings folder as it is stored, for any size of batches."""
    with EmbeddingsWriter(tmp_path, IDENTITY_OF_ROWS, shard_rows=80) as writer:
        for i, row in enumerate(ROWS):
            writer.append(
                id=f"{i}",
                source=f"{i}.png",
                embedding=row,
                width=1,
                height=1,
                sha256=None,
                attributes={"n": i},
            )
    found = [predict_batch(batch, model()) for batch, _ in shard_batches(tmp_path, rows)]
    names = [str(i) for i in range(len(ROWS))]
    alone = predict_rows(
        model(), names, [f"{i}.png" for i in names], ROWS, [{"n": i} for i in range(len(ROWS))]
    )
    expected = pa.Table.from_pylist([as_record(row) for row in alone], schema=schema())
    assert pa.Table.from_batches(found).select(schema().names).equals(expected)


def test_what_failed_is_passed_on(pictures: Path) -> None:
    """Between predictions, in the order of the pictures."""
    batch = embed_batch(of_items(list(items([pictures]))), FakeEncoder(), EmbedOptions(IDENTITY))
    codes = batch.column("code").to_pylist()
    assert Counter(codes) == {"": 11, "decode-failed": 1, "skipped": 1}
    wide = pa.list_(pa.float16(), 24)
    vectors = [row if code == "" else None for row, code in zip(ROWS.astype(np.float16), codes, strict=False)]
    batch = batch.set_column(batch.schema.names.index("embedding"), "embedding", pa.array(vectors, wide))
    found = predict_batch(batch, model())
    assert found.schema == PREDICTED
    assert found.column("code").to_pylist() == codes
    assert found.column("id").to_pylist() == batch.column("id").to_pylist()
    for cluster, code in zip(found.column("cluster").to_pylist(), codes, strict=True):
        assert (cluster is None) == (code != "")


def test_another_encoder_is_refused_on_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a machine has other weights, nothing is mixed; the options travel."""
    from imgclust.embedding import encoder

    options = pickle.loads(pickle.dumps(EmbedOptions(dataclasses.replace(IDENTITY, weights="1" * 64))))
    monkeypatch.setattr(encoder, "load_encoder", lambda *_, **__: FakeEncoder())
    with pytest.raises(EmbeddingsError, match="give all machines the same weights"):
        options.encoder()


def test_parts_hold_whole_batches() -> None:
    sizes = [3, 3, 4, 9, 1, 1]
    batches = [of_items([Item(f"{i}", "x")] * size) for i, size in enumerate(sizes)]
    found = [[len(batch) for batch in part] for part in parts_of(batches, 6)]
    assert found == [[3, 3], [4], [9], [1, 1]]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["embed", "{pictures}", "-o", "{out}", "--encoder", "mini"],
            "needs Ray: pip install 'imgclust[ray]'",
        ),
        (["predict", "{model}", "{pictures}", "-o", "tags.parquet"], "writes a folder of Parquet files"),
        (["predict", "{model}", "{pictures}"], "writes a folder of Parquet files"),
        (["predict", "{model}", "{pictures}", "-", "-o", "{out}"], "nothing of stdin"),
        (["predict", "{model}", "{pictures}", "-o", "{out}"], "does not name its encoder"),
    ],
)
def test_the_commands_say_what_is_missing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], text: str,
) -> None:  # fmt: skip
    """In a sentence, before any picture is read."""
    monkeypatch.setitem(sys.modules, "ray", None)
    from imgclust.embedding import encoder

    monkeypatch.setattr(encoder, "load_encoder", lambda *_, **__: FakeEncoder())
    model().save(tmp_path / "model")
    places = {"pictures": str(pictures), "out": str(tmp_path / "out"), "model": str(tmp_path / "model")}
    assert main([*(a.format(**places) for a in arguments), "--engine", "ray"]) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
