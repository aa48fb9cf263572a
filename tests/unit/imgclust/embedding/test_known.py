"""`imgclust.embedding.known`, through `embed`: the same image is embedded once, another one always is."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.embedding import known
from imgclust.embedding.embed import EmbedSummary, embed
from imgclust.embedding.known import _Hashes
from imgclust.embedding.store import read_embeddings, shards
from tests.support.fake_encoder import FakeEncoder
from tests.unit.imgclust.embedding.test_embed import failures, png


def picture(path: Path, brightness: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(brightness))
    return path


def run(folder: Path, *sources: Path | str) -> EmbedSummary:
    return embed(sources, folder / "out", FakeEncoder(), progress=False)


def stored(folder: Path) -> dict[str, str]:
    found = read_embeddings(folder / "out")
    assert len(set(found.ids)) == len(found.ids)
    return dict(zip(found.ids, found.sources, strict=True))


def test_equal_names_of_two_runs_are_two_images(tmp_path: Path) -> None:
    """Both are there, the second under a name that its content completes; a third run does nothing."""
    for camera, brightness in (("cam1", 1), ("cam2", 2)):
        picture(tmp_path / camera / "IMG_1.png", brightness)
    first, second = run(tmp_path, tmp_path / "cam1"), run(tmp_path, tmp_path / "cam2")
    assert (first.embedded, first.renamed, second.embedded, second.renamed) == (1, 0, 1, 1)
    one, other = stored(tmp_path)
    assert one == "IMG_1.png"
    assert other == f"IMG_1.png#{read_embeddings(tmp_path / 'out').sha256[1][:8]}"  # type: ignore[index]
    for camera in ("cam1", "cam2"):
        again = run(tmp_path, tmp_path / camera)
        assert (again.embedded, again.present) == (0, 1)


def test_equal_names_of_one_run_are_two_images(tmp_path: Path) -> None:
    """Two folders of one name, given at once."""
    sources = [tmp_path / year / "photos" for year in ("2023", "2024", "2025")]
    for brightness, source in enumerate(sources):
        picture(source / "IMG_1.png", brightness % 2)
    summary = run(tmp_path, *sources)
    assert (summary.embedded, summary.renamed, summary.present) == (2, 1, 1)
    assert set(stored(tmp_path).values()) == {str(source / "IMG_1.png") for source in sources[:2]}
    assert run(tmp_path, *sources).present == 3


def test_moved_and_copied_files_are_the_same_images(tmp_path: Path) -> None:
    """Another place with the same name and the same bytes: nothing is decoded again."""
    for i in range(5):
        picture(tmp_path / "here" / f"{i}.png", i)
    run(tmp_path, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    encoder = FakeEncoder()
    summary = embed([tmp_path / "there"], tmp_path / "out", encoder, progress=False)
    assert (summary.embedded, summary.present, encoder.batches) == (0, 5, [])


def test_a_relative_path_from_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`embed .` in two places names two images; in one place, by whatever path, one."""
    for camera, brightness in (("cam1", 1), ("cam2", 2)):
        picture(tmp_path / camera / "IMG_1.png", brightness)
        monkeypatch.chdir(tmp_path / camera)
        assert run(tmp_path, ".").embedded == 1
    assert len(stored(tmp_path)) == 2
    monkeypatch.chdir(tmp_path)
    assert [run(tmp_path, "cam1").present, run(tmp_path, tmp_path / "cam2").present] == [1, 1]
    assert run(tmp_path, "cam1", "cam2").present == 2  # under other ids, and the same files


def test_a_changed_file_is_another_image(tmp_path: Path) -> None:
    """Its place is the same, its content decides; a file that was only touched stays the same."""
    path = picture(tmp_path / "in" / "a.png", 1)
    run(tmp_path, tmp_path / "in")
    (shard,) = shards(tmp_path / "out")
    later = shard.stat().st_mtime + 10
    os.utime(path, (later, later))
    assert run(tmp_path, tmp_path / "in").present == 1
    path.write_bytes(png(2))
    os.utime(path, (later, later))
    summary = run(tmp_path, tmp_path / "in")
    assert (summary.embedded, summary.renamed) == (1, 1)
    assert len(stored(tmp_path)) == 2


def test_ids_of_lists_are_never_changed(tmp_path: Path) -> None:
    """A second image under one is an error that is listed, within a run and between runs; the same is not."""
    picture(tmp_path / "a.png", 1)
    picture(tmp_path / "b.png", 2)
    picture(tmp_path / "copy.png", 1)
    (tmp_path / "l.csv").write_text("id,file\n7,a.png\n7,b.png\n8,a.png\n")
    summary = run(tmp_path, tmp_path / "l.csv")
    assert (summary.embedded, summary.failed) == (2, {"duplicate-id": 1})
    assert failures(tmp_path / "out") == {"7": "duplicate-id"}
    (tmp_path / "l.csv").write_text("id,file\n7,copy.png\n8,b.png\n")
    summary = run(tmp_path, tmp_path / "l.csv")
    assert (summary.embedded, summary.present, summary.failed) == (0, 1, {"duplicate-id": 1})
    assert set(stored(tmp_path)) == {"7", "8"}


def test_signed_urls_of_one_id_are_one_image() -> None:
    """A list's id with the same URL but for its query, where signatures are, is not fetched again."""
    key = known._key_of_id("7", "https://b.example/a.png?sig=1")
    assert key == known._key_of_id("7", "https://b.example/a.png?sig=2")
    assert key != known._key_of_id("7", "https://b.example/b.png?sig=1")
    assert known._key_of_id("7", "/a?1") != known._key_of_id("7", "/a?2")


def test_files_that_are_met_twice_are_counted(tmp_path: Path) -> None:
    """Folders within each other are read once, and it is told."""
    picture(tmp_path / "in" / "sub" / "a.png", 1)
    summary = run(tmp_path, tmp_path / "in", tmp_path / "in" / "sub")
    assert (summary.embedded, summary.skipped) == (1, {"the same file again": 1})


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """They are found again by the next run, too."""
    picture(Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/M\xe4rz/\xff.png")), 1)
    assert run(tmp_path, tmp_path / "in").embedded == 1
    assert stored(tmp_path) == {"M\\udce4rz/\\udcff.png": str(tmp_path / "in" / "M\udce4rz" / "\udcff.png")}
    assert run(tmp_path, tmp_path / "in").present == 1


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20), max_size=60), st.integers(1, 8))
def test_a_set_of_hashes_is_a_set(values: list[int], merge: int) -> None:
    """While it grows, across merges."""
    before, known._MERGE = known._MERGE, merge
    try:
        hashes, plain = _Hashes(), set[int]()
        for value in values:
            assert (value in hashes) == (value in plain)
            hashes.add(value)
            plain.add(value)
        assert all(value in hashes for value in values)
        assert hashes._sorted.dtype == np.uint64
    finally:
        known._MERGE = before


def test_readers_see_every_hash_while_it_is_merged() -> None:
    """What was added is never missing in between."""
    hashes, missing = _Hashes(), []
    hashes.add(7)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if 7 not in hashes:
                missing.append(1)

    thread = threading.Thread(target=read)
    thread.start()
    for value in range(300_000):
        hashes.add(value)
    done.set()
    thread.join()
    assert not missing
