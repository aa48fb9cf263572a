"""Predictions as files, as a table, and as sorted pictures."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from imgclust.embedding.store import EmbeddingsWriter
from imgclust.embedding.stream import Failed
from imgclust.errors import EmbeddingsError, ImgclustError
from imgclust.report.annotations import read_notes
from imgclust.support.spreadsheets import guard, unguard
from imgclust.tagging.files import COLUMNS, write_rows
from imgclust.tagging.folders import Sorted, check_outside, copy_to, folder_name, link_to
from imgclust.tagging.rows import Guess, Row, predict_embeddings, predict_lines, predict_paths
from imgclust.tagging.table import PredictionSummary, plain, print_table
from imgclust.types import EncoderIdentity, Floats, Pixels, Prediction, Preprocessing


def row(
    source: str = "in/a.jpg", cluster: int = 3, name: str | None = "birds", *, image: str | None = None
) -> Row:
    guesses = (Guess(3, "birds", 0.5), Guess(7, None, 0.25))
    probability = 0.0 if cluster < 0 else 0.875
    return Row(
        image or source,
        source,
        cluster,
        name,
        probability,
        False,
        guesses,
        "0123456789ab",
        "ba9876543210",
        {"category": "bird"},
    )


# ---- predicting -----------------------------------------------------------------------------------------

IDENTITY = EncoderIdentity("test", "none", "0" * 64, Preprocessing(4, 4), "float32", 3)


class ByColour:
    """An encoder and a model in one: red, green and blue pictures are clusters 0, 1 and 2, grey ones none."""

    identity = IDENTITY
    version, taxonomy = "0123456789ab", "ba9876543210"
    clusters = ()

    def encode(self, pixels: Pixels) -> Floats:
        return pixels.mean(axis=(1, 2)).astype(np.float32) / 255

    def name(self, cluster: int) -> str | None:
        return {0: "red", 1: "green"}.get(cluster)

    def check_encoder(self, encoder: EncoderIdentity) -> None:
        if not encoder.same_space(IDENTITY):
            raise EmbeddingsError("another encoder")

    def predict(self, embeddings: Floats) -> Prediction:
        grey = np.ptp(embeddings, axis=1) < 0.5
        best = embeddings.argmax(axis=1).astype(np.int32)
        n = len(best)
        return Prediction(
            labels=np.where(grey, -1, best).astype(np.int32),
            probabilities=np.where(grey, 0, 1).astype(np.float32),
            points=np.zeros((n, 2), np.float32),
            novel=grey,
            candidates=np.stack([best, np.full(n, -1), np.full(n, -1)], 1).astype(np.int32),
            scores=np.ones((n, 3), np.float32),
            similarities=np.ones(n, np.float32),
            assigned=np.zeros(n, bool),
        )


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder with a picture of each colour, a broken one, and a file that is none."""
    folder = tmp_path / "colours"
    (folder / "more").mkdir(parents=True)
    for name, colour in {"red": "#f00", "more/blue": "#00f", "green": "#0f0", "grey": "#888"}.items():
        Image.new("RGB", (8, 6), colour).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:40])
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_becomes_rows(colours: Path) -> None:
    """Every picture is a row with its cluster, name and candidates; the others are told of and counted."""
    both: Any = ByColour()
    failed: list[Failed] = []
    skipped: Counter[str] = Counter()
    rows = list(predict_paths(both, both, [colours], on_failed=failed.append, skipped=skipped))
    assert [(r.id, r.cluster, r.name) for r in rows] == [
        ("green.png", 1, "green"),
        ("grey.png", -1, None),
        ("red.png", 0, "red"),
        ("more/blue.png", 2, None),
    ]
    assert [r.novel for r in rows] == [False, True, False, False]
    assert rows[0].candidates == (Guess(1, "green", 1.0),)
    assert Path(rows[3].source) == colours / "more" / "blue.png"
    assert [f.item.id for f in failed] == ["broken.png"]
    assert skipped == {"not an image": 1}


def test_lines_become_rows(colours: Path) -> None:
    """A stream of paths, one a line, with blank lines between."""
    both: Any = ByColour()
    lines = [f"{colours}/red.png\n", "\n", f"{colours}/green.png"]
    assert [r.name for r in predict_lines(both, both, iter(lines))] == ["red", "green"]


def test_a_list_hands_its_columns_on(colours: Path) -> None:
    """The other columns of a CSV list come out as attributes, and its ids as ids."""
    both: Any = ByColour()
    (colours / "list.csv").write_text("id,file,category\na,red.png,warm\n")
    (found,) = predict_paths(both, both, [colours / "list.csv"])
    assert (found.id, found.name, found.attributes) == ("a", "red", {"category": "warm"})


def test_another_encoder_is_refused_before_a_picture_is_read(colours: Path) -> None:
    """The wrong encoder is an error at the call, not after minutes of reading."""
    both: Any = ByColour()
    other = SimpleNamespace(identity=dataclasses.replace(IDENTITY, precision="fp16"))
    with pytest.raises(EmbeddingsError):
        predict_paths(both, other, [colours])  # type: ignore[arg-type]


def test_an_embeddings_folder_becomes_rows(tmp_path: Path) -> None:
    """Stored embeddings are predicted without any picture, with their sources and attributes."""
    with EmbeddingsWriter(tmp_path, IDENTITY, shard_rows=2) as writer:
        for i in range(3):
            writer.append(
                id=str(i), source=f"s{i}", embedding=np.eye(3)[i], width=1, height=1, sha256="",
                attributes={"n": i},
            )  # fmt: skip
    both: Any = ByColour()
    rows = list(predict_embeddings(both, tmp_path))
    assert [(r.id, r.source, r.cluster, r.attributes) for r in rows] == [
        (str(i), f"s{i}", i, {"n": i}) for i in range(3)
    ]


# ---- files ----------------------------------------------------------------------------------------------


@given(st.text())
def test_guarded_cells_start_no_formula_and_come_back(text: str) -> None:
    """Whatever a file is called, its cell is no formula, and the name can be had back exactly."""
    cell = guard(text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    assert not cell.startswith(("\t", "\r"))
    assert unguard(cell) == text


@pytest.mark.parametrize("text", ["birds/a.jpg", "O'Hara.png", "'quoted'.png", "a=b.jpg", "", "3-2.jpg"])
def test_ordinary_names_are_left_alone(text: str) -> None:
    """Only cells that a spreadsheet would run are changed."""
    assert guard(text) == text


HOSTILE = [
    "=cmd|' /C calc'!A1.jpg",
    "+1.png",
    "-2.png",
    "@SUM(A1)",
    "'=x",
    'a,"b"\nc.jpg',
    "é\u202e.jpg",
    "plain.jpg",
]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".ndjson", ".parquet"])
def test_rows_come_back_from_every_format(tmp_path: Path, ending: str) -> None:
    """What is written is read back by the report, with hostile names exact, whatever the format."""
    rows = [
        row(image=name, cluster=-1 if i % 2 else 3, name=None if i % 2 else name)
        for i, name in enumerate(HOSTILE)
    ]
    file = tmp_path / f"tags{ending}"
    assert write_rows(iter(rows), file) == len(rows)
    notes = read_notes(file)
    assert list(notes) == HOSTILE
    assert [n.probability for n in notes.values()] == [r.probability for r in rows]
    assert notes["plain.jpg"].candidates == ((3, 0.5), (7, 0.25))
    assert notes["plain.jpg"].attributes == {"category": "bird"}
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_csv_for_people(tmp_path: Path) -> None:
    """The CSV has a header, plain numbers (also -1), an empty cell for no name, and true or false."""
    write_rows([row(cluster=-1, name=None)], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        (found,) = csv.DictReader(file)
    assert tuple(found) == COLUMNS
    assert found["cluster"] == "-1"
    assert (found["name"], found["novel"], found["probability"]) == ("", "false", "0.0")
    assert json.loads(found["candidates"])[0] == {"cluster": 3, "name": "birds", "score": 0.5}


def test_json_lines_are_like_tags(tmp_path: Path) -> None:
    """A line has a tag's fields with a tag's names and types."""
    write_rows([dataclasses.replace(row(), group=2)], tmp_path / "t.jsonl")
    assert json.loads((tmp_path / "t.jsonl").read_text()) == {
        "id": "in/a.jpg", "source": "in/a.jpg", "cluster": 3, "name": "birds", "probability": 0.875,
        "novel": False, "model": "0123456789ab", "taxonomy": "ba9876543210",
        "attributes": {"category": "bird"}, "similarity": None, "assigned": False, "from_class": False,
        "group": 2,
        "candidates": [
            {"cluster": 3, "name": "birds", "score": 0.5},
            {"cluster": 7, "name": None, "score": 0.25},
        ],
    }  # fmt: skip


def test_parquet_has_types_even_without_rows(tmp_path: Path) -> None:
    """An empty result is a Parquet file with the same schema as a full one."""
    write_rows([], tmp_path / "none.parquet")
    write_rows([row()], tmp_path / "one.parquet")
    assert pq.read_schema(tmp_path / "none.parquet") == pq.read_schema(tmp_path / "one.parquet")


def test_names_that_are_not_utf8_can_be_written(tmp_path: Path) -> None:
    """A file name with stray bytes (a lone surrogate in Python) is written with its bytes spelled out."""
    name = os.fsdecode(b"caf\xe9.jpg")
    for ending in (".csv", ".jsonl", ".parquet"):
        file = tmp_path / f"t{ending}"
        write_rows([row(source=name)], file)
        assert list(read_notes(file)) == ["caf\\udce9.jpg"]


def test_an_unknown_ending_is_refused_before_any_work(tmp_path: Path) -> None:
    """`-o tags.xlsx` names the endings that work, and no row is predicted for it."""

    def never() -> Iterator[Row]:
        pytest.fail("a row was asked for")
        yield

    with pytest.raises(ImgclustError, match=r"\.csv, \.jsonl, \.ndjson, \.parquet.*'tags\.xlsx'"):
        write_rows(never(), tmp_path / "tags.xlsx")


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    """If predicting stops half-way, the file from the last time is still there, whole, and nothing else."""

    def fails() -> Iterator[Row]:
        yield row()
        raise RuntimeError("the encoder went away")

    file = tmp_path / "t.jsonl"
    file.write_text("before\n")
    with pytest.raises(RuntimeError):
        write_rows(fails(), file)
    assert file.read_text() == "before\n"
    assert list(tmp_path.iterdir()) == [file]


def test_rows_stream(tmp_path: Path) -> None:
    """Rows are written as they come: never more than one Parquet group is held."""
    held = 0
    most = 0

    class Counted(Row):
        def __del__(self) -> None:
            nonlocal held
            held -= 1

    def many() -> Iterator[Row]:
        nonlocal held, most
        for i in range(25_000):
            held += 1
            most = max(most, held)
            yield Counted(str(i), "s", 1, None, 0.5, False, (), "m", "t")

    assert write_rows(many(), tmp_path / "t.jsonl") == 25_000
    assert most <= 3


# ---- the table ------------------------------------------------------------------------------------------


def shown(rows: list[Row], limit: int = 40) -> tuple[str, PredictionSummary]:
    out = io.StringIO()
    tally = print_table(iter(rows), Console(file=out, width=100, color_system=None), limit=limit)
    return out.getvalue(), tally


def test_the_table_and_its_summary() -> None:
    """The first rows are shown, the others counted; clusters come largest first, "other" last."""
    rows = (
        [row(f"p{i}.jpg") for i in range(6)]
        + [row(f"q{i}.jpg", 7, None) for i in range(3)]
        + [row("o.jpg", -1, None)]
    )
    text, tally = shown(rows, limit=4)
    assert "p3.jpg" in text
    assert "p4.jpg" not in text
    assert "and 6 more" in text
    assert tally.counts == {3: 6, 7: 3, -1: 1}
    summary = text[text.index("and 6 more") :]
    assert summary.index("birds") < summary.index("#7") < summary.index("other")
    assert "6 (60%)" in summary
    assert "10 pictures in 2 clusters" in summary


def test_no_rows_is_no_error() -> None:
    """An empty folder gives an empty summary."""
    assert "0 pictures in 0 clusters" in shown([])[0]


def test_the_table_shows_markup_and_escapes_as_text() -> None:
    """A name with rich markup or terminal escapes is shown, not obeyed."""
    text, _ = shown([row("[red]a[/red]\x1b[2J\x07.jpg", name="[bold]x\x9b1m")])
    assert "[red]a[/red]\\x1b[2J\\x07.jpg" in text
    assert "\x1b" not in text
    assert "\x9b" not in text


@given(st.text())
def test_plain_text_moves_no_cursor(text: str) -> None:
    """What goes to a terminal is printable, all of it."""
    assert plain(text).isprintable()


# ---- one folder per cluster -----------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.none() | st.text())
def test_folder_names_are_safe(cluster: int, name: str | None) -> None:
    """Whatever a cluster is called, its folder is one level, not hidden, not long, and its own."""
    folder = folder_name(cluster, name)
    assert Path(folder).name == folder
    assert folder.startswith(f"{cluster:03d}")
    assert len(folder) <= 70
    assert re.fullmatch(r"[\w-]+", folder)
    assert folder != folder_name(cluster + 1, name)


def test_folder_names_read_well() -> None:
    """Number first, then the name with hyphens; other has its own."""
    assert folder_name(12, "playing cards / jokers") == "012-playing-cards-jokers"
    assert folder_name(3, "../../etc") == "003-etc"
    assert folder_name(3, None) == "003"
    assert folder_name(-1, None) == "other"


@pytest.fixture
def pictures(tmp_path: Path) -> list[Row]:
    """Four pictures: two of the same name with different content, one in another cluster, one in none."""
    rows = []
    for i, (path, cluster) in enumerate([("a/x.jpg", 3), ("b/x.jpg", 3), ("a/y.jpg", 7), ("b/z.jpg", -1)]):
        file = tmp_path / "in" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"picture %d" % i)
        rows.append(row(str(file), cluster, {3: "birds"}.get(cluster), image=path))
    return rows


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SORTED = {
    "003-birds/x.jpg": b"picture 0",
    "003-birds/x (2).jpg": b"picture 1",
    "007/y.jpg": b"picture 2",
    "other/z.jpg": b"picture 3",
}


@pytest.mark.parametrize("sort", [copy_to, link_to])
def test_sorting(tmp_path: Path, pictures: list[Row], sort: type[copy_to]) -> None:
    """Each picture is in its cluster's folder, equal names get numbers, the rows pass through unchanged."""
    counts = Sorted()
    assert list(sort(pictures, tmp_path / "out", counts)) == pictures
    assert tree(tmp_path / "out") == SORTED
    assert counts == Sorted(placed=4)
    assert all(p.is_symlink() == (sort is link_to) for p in (tmp_path / "out").rglob("*.jpg"))


@pytest.mark.parametrize("sort", [copy_to, link_to])
def test_sorting_again_changes_nothing(tmp_path: Path, pictures: list[Row], sort: type[copy_to]) -> None:
    """A second run finds everything there and adds nothing."""
    list(sort(pictures, tmp_path / "out"))
    counts = Sorted()
    list(sort(pictures, tmp_path / "out", counts))
    assert tree(tmp_path / "out") == SORTED
    assert counts == Sorted(present=4)


@pytest.mark.parametrize("sort", [copy_to, link_to])
def test_nothing_is_overwritten(tmp_path: Path, pictures: list[Row], sort: type[copy_to]) -> None:
    """A file or a dangling link that has the name already stays as it is."""
    there = tmp_path / "out" / "003-birds"
    there.mkdir(parents=True)
    (there / "x.jpg").write_bytes(b"mine")
    (there / "x (2).jpg").symlink_to("nowhere")
    list(sort(pictures[:1], tmp_path / "out"))
    assert (there / "x.jpg").read_bytes() == b"mine"
    assert os.readlink(there / "x (2).jpg") == "nowhere"
    assert (there / "x (3).jpg").read_bytes() == b"picture 0"
    assert not (tmp_path / "out" / "nowhere").exists()


def test_what_is_no_file_is_counted_apart(tmp_path: Path) -> None:
    """URLs and missing files cannot be sorted; they are counted, and stop nobody."""
    counts = Sorted()
    rows = [row("https://example.com/a.jpg"), row(str(tmp_path / "gone.jpg"))]
    assert list(copy_to(rows, tmp_path / "out", counts)) == rows
    assert counts == Sorted(elsewhere=2, example="https://example.com/a.jpg")


def test_sorting_into_what_is_read_is_refused(tmp_path: Path) -> None:
    """A target inside a source would be found by the walk; one beside it, of a like name, is fine."""
    (tmp_path / "in").mkdir()
    with pytest.raises(ImgclustError, match="a folder outside of it"):
        check_outside(tmp_path / "in" / "sorted", [tmp_path / "in"])
    with pytest.raises(ImgclustError):
        check_outside(tmp_path / "in" / ".." / "in", [tmp_path / "in"])
    check_outside(tmp_path / "in-sorted", [tmp_path / "in", "https://example.com/x"])
