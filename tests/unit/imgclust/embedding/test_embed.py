"""Images → embeddings folder: complete, resumable, at constant memory, and not stopped by bad images."""

from __future__ import annotations

import csv
import dataclasses
import errno
import hashlib
import http.server
import io
import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.embedding.embed import FAILED, embed
from imgclust.embedding.store import read_embeddings, shards
from imgclust.embedding.stream import Embedded, Failed, stream
from imgclust.errors import EncoderError, ImgclustError
from imgclust.fetching.urls import FetchPolicy
from imgclust.images.reader import Reader
from imgclust.images.sources import Item, items
from imgclust.support.progress import Progress, bar_for, stage_lines
from imgclust.support.spreadsheets import unguard
from imgclust.types import Floats, Pixels
from tests.support.fake_encoder import FakeEncoder


def png(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (9, 7), brightness).save(file, "PNG")
    return file.getvalue()


def pictures(folder: Path, n: int) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(n):
        (folder / f"{i:03d}.png").write_bytes(png(i))
    return folder


def failures(folder: Path) -> dict[str, str]:
    with (folder / FAILED).open(newline="", encoding="utf-8") as file:
        return {unguard(row["id"]): row["code"] for row in csv.DictReader(file)}


def test_everything_is_embedded(tmp_path: Path) -> None:
    """Each image has its row: its own embedding, size, digest and place, in the folder's order."""
    source = pictures(tmp_path / "in", 21)
    summary = embed([source], tmp_path / "out", FakeEncoder(), batch=4, progress=False)
    assert (summary.embedded, summary.present) == (21, 0)
    assert not summary.failed
    found = read_embeddings(tmp_path / "out")
    assert found.ids == [f"{i:03d}.png" for i in range(21)]
    angles = np.arange(21) * (np.pi / 2 / 255)
    assert np.allclose(found.vectors, np.stack([np.cos(angles), np.sin(angles)], 1), atol=1e-3)
    assert set(found.widths.tolist()) == {9}
    assert set(found.heights.tolist()) == {7}
    assert found.sha256[5] == hashlib.sha256(png(5)).hexdigest()
    assert found.sources[5] == str(source / "005.png")
    assert not (tmp_path / "out" / FAILED).exists()


def test_content_decides(tmp_path: Path) -> None:
    """A JPEG named .txt is an image; a text named .jpg, a hidden file and a macOS leftover are counted."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "photo.txt").write_bytes(png(1))
    (source / "notes.jpg").write_text("not an image")
    (source / "empty.png").touch()
    (source / "._photo.jpg").write_bytes(png(1))
    summary = embed([source], tmp_path / "out", FakeEncoder(), progress=False)
    assert summary.embedded == 1
    assert summary.skipped == {"not an image": 2, "hidden": 1}
    assert not summary.failed


def test_bad_images_are_listed_and_stop_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged, too large and HEIC images have their code and reason in `failed.csv`; the others are there."""
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    source = pictures(tmp_path / "in", 3)
    (source / "cut.png").write_bytes(png(1)[:50])
    (source / "=1+1.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    Image.new("1", (9000, 9000)).save(source / "large.gif")
    summary = embed([source], tmp_path / "out", FakeEncoder(), progress=False)
    assert summary.embedded == 3
    assert summary.failed == {"decode-failed": 1, "unsupported-format": 1, "too-many-pixels": 1}
    assert summary.needs_heif == 1
    assert failures(tmp_path / "out") == {
        "cut.png": "decode-failed", "=1+1.heic": "unsupported-format", "large.gif": "too-many-pixels",
    }  # fmt: skip


def test_what_is_named_must_be_an_image(tmp_path: Path) -> None:
    """A list that names a text or a missing file has failures, not silently skipped rows."""
    source = pictures(tmp_path / "in", 1)
    (source / "a.txt").write_text("text")
    (source / "list.csv").write_text("file,kind\n000.png,good\na.txt,bad\nnone.png,bad\n000.png,again\n")
    summary = embed([source / "list.csv"], tmp_path / "out", FakeEncoder(), progress=False)
    assert summary.failed == {"unsupported-format": 1, "not-found": 1, "duplicate-id": 1}
    assert read_embeddings(tmp_path / "out").attributes == [{"kind": "good"}]


def test_resumes(tmp_path: Path) -> None:
    """A run that breaks in the middle keeps what it has; the next one does the rest, and nothing twice."""
    source = pictures(tmp_path / "in", 20)

    class Breaks(FakeEncoder):
        def encode(self, pixels: Pixels) -> Floats:
            if len(self.batches) == 3:
                raise KeyboardInterrupt
            return super().encode(pixels)

    with pytest.raises(KeyboardInterrupt):
        embed([source], tmp_path / "out", Breaks(), batch=4, progress=False)
    assert len(read_embeddings(tmp_path / "out")) == 12
    encoder = FakeEncoder()
    summary = embed([source], tmp_path / "out", encoder, batch=4, progress=False)
    assert (summary.embedded, summary.present, sum(encoder.batches)) == (8, 12, 8)
    assert sorted(read_embeddings(tmp_path / "out").ids) == [f"{i:03d}.png" for i in range(20)]
    idle = FakeEncoder()
    assert embed([source], tmp_path / "out", idle, progress=False).present == 20
    assert idle.batches == []


def test_failed_images_are_tried_again(tmp_path: Path) -> None:
    """An image that was mended between two runs is embedded by the second."""
    source = pictures(tmp_path / "in", 2)
    (source / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert embed([source], tmp_path / "out", FakeEncoder(), progress=False).failed.total() == 1
    (source / "001.png").write_bytes(png(1))
    again = embed([source], tmp_path / "out", FakeEncoder(), progress=False)
    assert (again.embedded, again.present, again.failed.total()) == (1, 1, 0)
    assert not (tmp_path / "out" / FAILED).exists()


def test_shards_appear_while_it_runs(tmp_path: Path) -> None:
    """A run that is killed loses at most what came since the last shard, which time decides."""
    source = pictures(tmp_path / "in", 12)
    seen = []

    class Slow(FakeEncoder):
        def encode(self, pixels: Pixels) -> Floats:
            seen.append(len(shards(tmp_path / "out")))
            now[0] += 20.0
            return super().encode(pixels)

    now = [0.0]
    embed([source], tmp_path / "out", Slow(), batch=2, progress=False, clock=lambda: now[0])
    assert seen == [0, 0, 1, 1, 2, 2]


def test_memory_is_constant(tmp_path: Path) -> None:
    """However many images there are, only a window of them is read ahead of the encoder."""
    picture = tmp_path / "a.png"
    picture.write_bytes(png(3))
    pulled = 0

    def endless() -> Iterator[Item]:
        nonlocal pulled
        while True:
            pulled += 1
            yield Item(str(pulled), str(picture))

    outcomes = stream(endless(), FakeEncoder(), batch=8)
    for _ in range(5):
        assert len(next(outcomes)) == 8
    outcomes.close()
    assert pulled <= 5 * 8 + 4 * 8


def test_a_picture_that_does_not_encode_fails_alone(tmp_path: Path) -> None:
    """One picture that the network overflows on costs neither its batch nor the run."""

    class Overflows(FakeEncoder):
        def encode(self, pixels: Pixels) -> Floats:
            if (pixels[:, 0, 0, 0] == 2).any():
                raise EncoderError("not finite")
            return super().encode(pixels)

    source = pictures(tmp_path / "in", 5)
    summary = embed([source], tmp_path / "out", Overflows(), progress=False)
    assert (summary.embedded, summary.failed) == (4, {"encode-failed": 1})
    assert failures(tmp_path / "out") == {"002.png": "encode-failed"}


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    """It is told before any image is read, so that nobody waits hours to learn of a typing error."""
    source, encoder = pictures(tmp_path / "in", 70), FakeEncoder()
    with pytest.raises(ImgclustError, match="neither a file"):
        embed([source, tmp_path / "none"], tmp_path / "out", encoder, batch=2, progress=False)
    assert encoder.batches == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serves `tmp_path / "in"` on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "in"))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_urls(tmp_path: Path, server: str) -> None:
    """URLs are fetched beside files; a 404 is a failure with its code."""
    source = pictures(tmp_path / "in", 4)
    policy = FetchPolicy(
        allow_networks=(ipaddress.ip_network("127.0.0.0/8"),), allow_ports=(int(server.rpartition(":")[2]),)
    )
    named = [f"{server}/{i:03d}.png" for i in (0, 1, 9)]
    summary = embed(
        [*named, source / "003.png"], tmp_path / "out", FakeEncoder(), progress=False, reader=Reader(policy)
    )
    assert (summary.embedded, summary.failed) == (3, {"not-found": 1})
    assert read_embeddings(tmp_path / "out").ids == [*named[:2], str(source / "003.png")]


def test_private_addresses_are_not_fetched_by_default(tmp_path: Path, server: str) -> None:
    """A list from strangers cannot make this machine read its own network."""
    pictures(tmp_path / "in", 1)
    (outcomes,) = stream([Item("x", f"{server}/000.png")], FakeEncoder())
    assert isinstance(outcomes[0], Failed)
    assert outcomes[0].code == "url-forbidden"


def test_the_examples(clipart: Path, tmp_path: Path) -> None:
    """Real images of all kinds and formats: every one is embedded."""
    outcomes = [
        o for batch in stream(items([clipart / "stars", clipart / "flags"]), FakeEncoder()) for o in batch
    ]
    assert len(outcomes) > 250
    assert all(isinstance(outcome, Embedded) for outcome in outcomes)


@dataclasses.dataclass
class Terminal(io.StringIO):
    """A file that is, or is not, a terminal."""

    terminal: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def isatty(self) -> bool:
        return self.terminal


def test_plain_progress() -> None:
    """Without a terminal a line appears now and then: how many, of how many, how fast, how long to go."""
    file, now = Terminal(), [0.0]
    counted = threading.Event()

    def count() -> int:
        counted.set()
        return 100

    with bar_for("embed", count, file=file, clock=lambda: now[0]) as bar:
        assert counted.wait(60)
        for thread in threading.enumerate():
            if thread.name == "imgclust-count":
                thread.join(60)
        bar.advance(10)
        now[0] = 10.0
        bar.advance(10)
        bar.advance(10)
    assert file.getvalue() == "embed: 20 of 100 images, 2.0/s, 40 s left\n"


def test_bar_on_a_terminal() -> None:
    """On a terminal there is a bar; asked for silence, there is nothing at all."""
    file = Terminal(terminal=True)
    with bar_for("embed", lambda: 3, file=file) as bar:
        bar.advance(3)
    assert "embed" in file.getvalue()
    silent = Terminal(terminal=True)
    with bar_for("embed", None, file=silent) as bar:
        bar.advance(3)
    assert silent.getvalue() == ""


def test_stage_lines() -> None:
    """Without a terminal a stage has a line at both ends and every ten seconds; on one it is written over."""
    shares, seconds = (None, 0.25, 0.5, 0.75, 1.0, 1.0), (0.0, 9.0, 10.0, 19.0, 21.0, 22.0)
    reports = [Progress("umap", "9 images", d, s) for d, s in zip(shares, seconds, strict=True)]
    plain, terminal = Terminal(), Terminal(terminal=True)
    for file in (plain, terminal):
        listen = stage_lines(file)
        for report in reports:
            listen(report)
    assert plain.getvalue() == ("umap: 9 images, 0 s\numap: 9 images  50%, 10 s\numap: 9 images 100%, 21 s\n")
    assert terminal.getvalue().count("\n") == 1
    assert " 25%" in terminal.getvalue()


@pytest.mark.parametrize("when", ["first line", "a later line", "the end"])
def test_a_full_disk_names_the_list_of_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Wherever it fills up: the error has the path, and what was embedded before is there."""
    source = pictures(tmp_path / "in", 3)
    for name in ("x1.png", "x2.png"):
        (source / name).write_bytes(png(1)[:50])
    room = {"first line": 0, "a later line": 1, "the end": 3}[when]
    opened = Path.open

    def open_on_a_full_disk(path: Path, *arguments: object, **options: object) -> object:
        file = opened(path, *arguments, **options)  # type: ignore[call-overload]
        return FullDisk(file, room) if path.name == FAILED else file

    monkeypatch.setattr(Path, "open", open_on_a_full_disk)
    with pytest.raises(ImgclustError, match=rf"out/{FAILED}' cannot be written: No space left on device"):
        embed([source], tmp_path / "out", FakeEncoder(), batch=1, progress=False)
    assert len(read_embeddings(tmp_path / "out")) == 3


class FullDisk:
    """A file with room for some lines, and none for what a close would write."""

    def __init__(self, file: io.TextIOWrapper, lines: int) -> None:
        self._file, self._lines = file, lines

    def write(self, text: str) -> int:
        if not self._lines:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._lines -= 1
        return self._file.write(text)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        raise OSError(errno.ENOSPC, "No space left on device")
