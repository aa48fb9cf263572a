"""What a report knows of a model: from its arrays, from an embeddings folder, from tags."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgclust.embedding.store import EmbeddingsWriter, shards
from imgclust.errors import EmbeddingsError
from imgclust.model.model import ClusterModel
from imgclust.model.parts import Cluster, Group
from imgclust.naming import given as given_names
from imgclust.report.annotations import Note
from imgclust.report.data import from_model
from imgclust.report.figures import words
from imgclust.report.page import write_report
from imgclust.report.payload import payload
from imgclust.report.tiles import BYTES_PER_PIXEL, SIDES, embedded_from, fitting, tiles
from imgclust.types import OTHER, EncoderIdentity, Floats, Prediction, Preprocessing
from tests.support.fitted import fitted

DIM = 4
IDENTITY = EncoderIdentity("test", "none", "0" * 64, Preprocessing(8, 8), "float32", DIM)


class Model(SimpleNamespace):
    """The part of a ClusterModel that a report reads; it finds cluster 1 in everything, with 0.5."""

    def predict(self, embeddings: Floats, *, encoder: EncoderIdentity) -> Prediction:
        if not encoder.same_space(IDENTITY):
            raise EmbeddingsError("the embeddings are from another encoder")
        n = len(embeddings)
        self.predicted += n
        return Prediction(
            labels=np.ones(n, np.int32),
            probabilities=np.full(n, 0.5, np.float32),
            points=np.zeros((n, 2), np.float32),
            novel=np.ones(n, bool),
            candidates=np.tile(np.array([1, 0, -1], np.int32), (n, 1)),
            scores=np.tile(np.array([0.5, 0.25, 0], np.float32), (n, 1)),
            similarities=np.zeros(n, np.float32),
            assigned=np.zeros(n, bool),
        )


def model(*, trained: int = 6, held_out: int = 2) -> ClusterModel:
    """Images 0 to 5 are trained on, 6 and 7 held out; the map shows all, trained ones first."""
    n = trained + held_out
    labels = (np.arange(n) % 2).astype(np.int32)
    table = pa.table(
        {
            "id": [f"f{i % 2}/{i}.png" for i in range(n)],
            "x": np.arange(n, dtype=np.float32),
            "y": np.arange(n, dtype=np.float32),
            "cluster": labels,
        }
    )
    stand_in = Model(
        version="0123456789ab",
        taxonomy="0123456789ab",
        created="2026-11-23T21:00:00Z",
        labels_=labels[:trained],
        arrays={"probabilities": np.linspace(0, 1, trained, dtype=np.float32)},
        encoder=IDENTITY,
        figures={},
        parameters={"umap": {"n_neighbors": 5}},
        libraries={},
        clusters=(
            Cluster(0, "zero", 3, ("f0/0.png",), 0.9),
            Cluster(1, None, 3, ("f1/1.png",), 0.55, group=4),
        ),
        thumbnails={},
        map=table,
        map_rows=np.append(np.arange(trained), np.full(held_out, -1)),
        predicted=0,
        edits=(),
        groups=(Group(4, None, 3),),
        group_name={4: "animals"}.get,
    )
    return cast(ClusterModel, stand_in)


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """Embeddings of all eight images; the file of 3 is missing, that of 4 broken, and 5 is a URL."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with EmbeddingsWriter(tmp_path / "embeddings", IDENTITY) as writer:
        for i in range(8):
            file = pictures / f"{i}.png"
            if i == 4:
                file.write_bytes(b"no picture")
            elif i != 3:
                Image.new("RGB", (90, 60), (30 * i, 100, 50)).save(file)
            writer.append(
                id=f"f{i % 2}/{i}.png",
                source="http://127.0.0.1:9/5.png" if i == 5 else str(file),
                embedding=np.eye(DIM, dtype=np.float16)[i % DIM],
                width=90,
                height=60,
                sha256="",
                attributes={"category": "even" if i % 2 == 0 else "odd", "number": i},
            )
    return tmp_path / "embeddings"


def test_how_steady_clusters_are_is_shown() -> None:
    """The page gets each cluster's stability, and a mark where it is low."""
    found = payload(from_model(model()))["clusters"]
    assert [(c["stability"], c["unsteady"]) for c in found] == [(0.9, False), (0.55, True)]


def test_clusters_are_under_their_groups() -> None:
    """The page gets the groups with their names, and each cluster's."""
    found = payload(from_model(model()))
    assert found["groups"] == [{"id": 4, "name": "animals"}]
    assert [c["group"] for c in found["clusters"]] == [None, 4]


def test_training_images_have_the_probabilities_of_the_fit() -> None:
    """The map's first rows are the training images, so their probabilities are known without predicting."""
    data = from_model(model())
    known = [data.notes[i].probability for i in data.ids if i in data.notes]
    assert known == pytest.approx(np.linspace(0, 1, 6))
    assert data.images == 6


def test_a_sampled_map_has_the_probabilities_of_what_it_shows() -> None:
    """Of some of the training images; where it is not known which it shows, nothing is said of them."""
    sampled = model()
    vars(sampled).update(map=sampled.map.slice(1), map_rows=sampled.map_rows[1:])
    known = [note.probability for note in from_model(sampled).notes.values()]
    assert known == pytest.approx(np.linspace(0, 1, 6)[1:])
    vars(sampled).update(map_rows=np.full(7, -1))
    assert from_model(sampled).notes == {}


def test_a_folder_of_parts_is_tags(tmp_path: Path) -> None:
    """What `predict --engine ray` writes: the rows of all parts, of which those on the map are kept."""
    columns = pa.schema([("id", pa.string()), ("probability", pa.float32()), ("attributes", pa.string())])
    for part, ids in enumerate((["f0/0.png", "elsewhere"], ["f1/5.png"])):
        rows = [{"id": i, "probability": 0.25, "attributes": '{"a": 1}'} for i in ids]
        pq.write_table(pa.Table.from_pylist(rows, columns), tmp_path / f"part-0000{part}.parquet")
    notes = from_model(model(), tags=tmp_path).notes
    assert {i for i, note in notes.items() if note.attributes == {"a": "1"}} == {"f0/0.png", "f1/5.png"}
    assert "elsewhere" not in notes


def test_vectors_of_known_images_are_not_read(embeddings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes, sources and names come of their own columns: of an embeddings folder whose vectors cannot
    be read a report is made where no image has to be predicted, and clusters are named."""
    (shard,) = shards(embeddings)
    vectors = pq.read_metadata(shard).row_group(0).column(2)
    assert vectors.path_in_schema.startswith("embedding")
    damaged = bytearray(shard.read_bytes())
    start = vectors.dictionary_page_offset or vectors.data_page_offset
    damaged[start : start + vectors.total_compressed_size] = bytes(vectors.total_compressed_size)
    shard.write_bytes(damaged)
    with pytest.raises((OSError, pa.ArrowException)):
        pq.read_table(shard)
    known = model(trained=8, held_out=0)
    data = from_model(known, images=embeddings)
    assert data.notes["f1/5.png"].attributes == {"category": "odd", "number": "5"}
    assert len(data.tiles) == 5
    monkeypatch.setattr(given_names, "_members", lambda _: [(f"f{i % 2}/{i}.png", i % 2) for i in range(8)])
    names = given_names.AttributeNamer(embeddings, "category").names(known)
    assert names == {0: "mostly even", 1: "mostly odd"}


def test_an_embeddings_folder_tells_the_rest(embeddings: Path) -> None:
    """Held-out images are predicted from their embeddings, and only they; all get their attributes."""
    stand_in = model()
    data = from_model(stand_in, images=embeddings)
    assert cast(Any, stand_in).predicted == 2
    assert data.notes["f0/6.png"] == Note(
        0.5, True, ((1, 0.5), (0, 0.25)), {"category": "even", "number": "6"}
    )
    assert data.notes["f1/5.png"] == Note(1.0, False, (), {"category": "odd", "number": "5"})


def test_small_pictures_of_what_can_be_read(embeddings: Path) -> None:
    """Missing and broken files have no small picture, URLs are not fetched; the others are WebP, whole."""
    data = from_model(model(), images=embeddings)
    assert set(data.tiles) == {"f0/0.png", "f1/1.png", "f0/2.png", "f0/6.png", "f1/7.png"}
    picture = Image.open(io.BytesIO(data.tiles["f0/6.png"]))
    assert (picture.format, picture.size) == ("WEBP", (90, 60))


@given(st.integers(0, 100_000_000), st.integers(0, 30_000))
def test_small_pictures_have_room(room: int, images: int) -> None:
    """All images get the largest size that has room for all; only where none has, fewer get a picture."""
    side, count = fitting(room, images)
    assert count <= images
    assert count * BYTES_PER_PIXEL * side * side <= room
    assert count == images or side == SIDES[-1]


def test_a_small_set_has_all_its_pictures_within_the_budget(embeddings: Path, tmp_path: Path) -> None:
    """Every picture that can be read is in the page; with no budget none is, and the page says so."""
    write_report(model(), tmp_path / "report.html", images=embeddings, budget=0)
    without = (tmp_path / "report.html").read_text("utf-8")
    page = write_report(model(), tmp_path / "report.html", images=embeddings).read_text("utf-8")
    assert page.count("UklGR") == 5  # as a WebP begins in base64
    assert '["On the map, with a picture","5 of 8"]' in page
    assert without.count("UklGR") == 0
    assert '["On the map, with a picture","0 of 8"]' in without
    assert "at most 0 MB" in without


def test_images_in_no_cluster_have_their_reason() -> None:
    """The model is asked about training images that the fit left over: which clusters are near, and why."""
    model = fitted().model
    model = model.edit().drop(model.clusters[0].id)
    data = from_model(model)
    places = np.flatnonzero((data.labels == OTHER) & (model.map_rows >= 0))
    notes = [data.notes[data.ids[place]] for place in places.tolist()]
    assert notes
    assert {note.probability for note in notes} == {0}
    found = model.predict(model.arrays["embeddings"][model.map_rows[places]].astype(np.float32))
    assert [note.novel for note in notes] == found.novel.tolist()
    known = [[c for c in row if c != OTHER] for row in found.candidates.tolist()]
    assert [[c for c, _ in note.candidates] for note in notes] == known


def test_only_wanted_pictures_are_read(embeddings: Path) -> None:
    """A picture that nobody asked for is not opened."""
    assert [image for image, _ in tiles(embedded_from(embeddings), {"f0/2.png"}, 48)] == ["f0/2.png"]


def test_tags_count_more_than_the_fit(tmp_path: Path) -> None:
    """What a file of tags says of an image replaces what the fit said; of others the fit's word stays."""
    tags = tmp_path / "tags.jsonl"
    tags.write_text(json.dumps({"id": "f0/0.png", "probability": 0.25, "attributes": {"a": "b"}}) + "\n")
    notes = from_model(model(), tags=tags).notes
    assert notes["f0/0.png"] == Note(0.25, False, (), {"a": "b"})
    assert notes["f1/5.png"].probability == 1.0


def test_an_embeddings_folder_given_as_tags(tmp_path: Path, embeddings: Path) -> None:
    """`--tags EMBEDDINGS/` is what one types who wants to filter by attributes: it is taken as the images."""
    page = write_report(model(), tmp_path / "report.html", tags=embeddings).read_text("utf-8")
    assert '"facets":[{"name":"category","values":["even","odd"]' in page


def test_images_of_another_encoder_are_refused(tmp_path: Path) -> None:
    """Embeddings that the model did not come from cannot be predicted by it."""
    other = dataclasses.replace(IDENTITY, weights="1" * 64)
    with EmbeddingsWriter(tmp_path / "embeddings", other) as writer:
        writer.append(id="f0/6.png", source="x", embedding=np.eye(DIM)[0], width=1, height=1, sha256="")
    with pytest.raises(EmbeddingsError):
        from_model(model(), images=tmp_path / "embeddings")


def test_an_edited_model() -> None:
    """The report has the clusters that people see, counts what they hold, and says who changed what."""
    model = fitted().model
    a, b = model.clusters[0].id, model.clusters[1].id
    edited = model.edit(who="anna").merge(a, b).edit(who="bert").rename({a: "both"}).edit(who="anna").undo()
    data = from_model(edited)
    assert [c.id for c in data.clusters] == [c.id for c in edited.clusters]
    assert sum(c.size for c in data.clusters) == (edited.labels_ >= 0).sum()
    assert set(data.labels.tolist()) - {-1} == {c.id for c in edited.clusters}
    assert len(data.notes) >= len(edited.labels_)
    sheet = next(s for s in words(data, {})["sections"] if s["title"] == "Edits by hand")
    assert [row[1] for row in sheet["rows"]] == [
        f"undone: {a} is called 'both'", f"{a} is called 'both' (undone)", f"{b} merged into {a}",
    ]  # fmt: skip
    assert sheet["rows"][0][0].endswith(" anna")
