"""Folders, files, lists and URLs → images, in order, with nothing twice and nothing endless."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgclust.errors import ImgclustError
from imgclust.images.sources import Item, from_lines, items


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_a_folder(tmp_path: Path) -> None:
    """All the way down, in a fixed order, ids relative; hidden files and folders are counted, not read."""
    make(tmp_path, "b.png", "a/2.jpg", "a/1", "a/deep/3.gif", ".hidden", "a/._1", ".git/x.png")
    skipped: Counter[str] = Counter()
    found = list(items([tmp_path], skipped))
    assert [item.id for item in found] == ["b.png", "a/1", "a/2.jpg", "a/deep/3.gif"]
    assert all(Path(item.source).is_file() and not item.named for item in found)
    assert skipped == {"hidden": 3}


def test_links(tmp_path: Path) -> None:
    """Linked folders are followed, circles and dead ends are not."""
    make(tmp_path, "in/1.png", "out/2.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to("self")
    (tmp_path / "in" / "dead").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "pipe")
    skipped: Counter[str] = Counter()
    assert [item.id for item in items([tmp_path / "in"], skipped)] == ["1.png", "linked/2.png"]
    assert skipped == {"loop of links": 2, "not a file": 3}


def test_several_folders(tmp_path: Path) -> None:
    """Equal names in several folders stay apart by the folders' names."""
    make(tmp_path, "x/1.png", "y/1.png")
    assert [item.id for item in items([tmp_path / "x", tmp_path / "y"])] == ["x/1.png", "y/1.png"]


def test_files_and_urls(tmp_path: Path) -> None:
    """What is named is called as it is named, and has to be an image."""
    make(tmp_path, "1.png")
    found = list(items([tmp_path / "1.png", "https://example.org/2.png?x=1"]))
    assert [item.id for item in found] == [str(tmp_path / "1.png"), "https://example.org/2.png?x=1"]
    assert all(item.named for item in found)
    assert [item.is_url for item in found] == [False, True]


def test_csv(tmp_path: Path) -> None:
    """Paths start at the list's folder; `id` names, other columns become attributes."""
    make(tmp_path, "lists/1.png")
    (tmp_path / "lists" / "all.csv").write_text(
        "\ufefffile,id,category\n1.png,one,ä\nhttp://example.org/2.png,,b\n", encoding="utf-8"
    )
    first, second = items([tmp_path / "lists" / "all.csv"])
    assert first == Item(
        "one", str(tmp_path / "lists" / "1.png"), attributes={"category": "ä"}, fixed_id=True
    )
    assert second == Item(
        "http://example.org/2.png", "http://example.org/2.png", attributes={"category": "b"}
    )


def test_the_example_list_and_folder_agree(clipart: Path) -> None:
    """`labels.csv` of the examples names the same images as its folder, and adds categories."""
    of_list = {item.id: item for item in items([clipart / "labels.csv"])}
    of_folder = {item.id for item in items([clipart]) if item.id.endswith((".png", ".jpg", ".webp"))}
    assert set(of_list) == of_folder
    assert of_list["birds/0019.png"].attributes["category"] == "birds"


def test_parquet(tmp_path: Path) -> None:
    """Typed attributes keep their types; what is no simple value is left out."""
    table = pa.table({"url": ["https://x.org/1"], "id": [7], "score": [0.5], "ok": [True], "list": [[1]]})
    pq.write_table(table, tmp_path / "list.parquet")
    (item,) = items([tmp_path / "list.parquet"])
    assert item == Item("7", "https://x.org/1", attributes={"score": 0.5, "ok": True}, fixed_id=True)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"colour,size\nred,1\n", "no column.*filename"),
        ("a.csv", b"", "no header line"),
        ("a.parquet", b"none", "not a Parquet file"),
    ],
)
def test_broken_lists(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """A list that cannot be read says why, and which row or columns."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImgclustError, match=says):
        list(items([tmp_path / name]))


def test_a_source_that_does_not_exist() -> None:
    """A wrong path is an error at once, with nothing of it unescaped."""
    with pytest.raises(ImgclustError, match=r"'no/such\\x1b' is neither"):
        list(items(["no/such\x1b"]))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """An id can always be stored as UTF-8, while the file is still found."""
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb"):
        pass
    (item,) = items([tmp_path])
    assert item.id == "\\udcff.png"
    assert Path(item.source).exists()


def test_lines() -> None:
    """One path or URL a line; blank lines are no images."""
    assert [i.source for i in from_lines(["a b.png\n", "\n", "  \n", "http://x/1\r\n"])] == [
        "a b.png",
        "http://x/1",
    ]
