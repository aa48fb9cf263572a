"""imgclust.embedding.stream: a device that goes on by itself always has the next batch."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fake_device import FakeDevice
from imgclust.embedding import stream as stream_module
from imgclust.embedding.stream import Embedded, EmbedOutcome, Failed, stream
from imgclust.embedding.streamed_encoder import StreamedEncoder
from imgclust.errors import EncoderError
from imgclust.images.decoder_pool import DecoderPool
from imgclust.images.sources import items
from imgclust.types import Encoder, Floats, Pixels
from tests.support.ahead_encoder import AheadEncoder
from tests.support.fake_encoder import FakeEncoder
from tests.support.light_steps import CRASH
from tests.support.towers import streamed_tower


class Strict(AheadEncoder):
    """What fails is an error of the encoder's, as the library's own have it."""

    def encode(self, pixels: Pixels) -> Floats:
        try:
            return super().encode(pixels)
        except ValueError as error:
            raise EncoderError(str(error)) from None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, and a file between them that is none."""
    from PIL import Image

    found = tmp_path_factory.mktemp("pictures")
    for i in range(30):
        Image.new("RGB", (8, 8), (i, i, i)).save(found / f"{i:02}.png")
    (found / "14a.png").write_bytes(b"no picture")
    return found


def outcomes(folder: Path, encoder: Encoder, batch: int = 4) -> list[EmbedOutcome]:
    files = [str(file) for file in sorted(folder.iterdir())]
    return [o for some in stream(items(files), encoder, batch=batch) for o in some]


def vectors(found: list[EmbedOutcome]) -> Floats:
    return np.array([o.vector for o in found if isinstance(o, Embedded)])


def test_the_next_batch_is_with_the_device_before_the_last_is_waited_for(folder: Path) -> None:
    """And all else is as with an encoder that does one after the other: order, rows, failures."""
    encoder = AheadEncoder()
    found, plain = outcomes(folder, encoder), outcomes(folder, FakeEncoder())
    assert encoder.deepest == 2
    assert [o.item.id for o in found] == [o.item.id for o in plain]
    assert np.array_equal(vectors(found), vectors(plain))
    assert [type(o) for o in found] == [type(o) for o in plain]
    assert len(vectors(found)) == 30


def test_what_fails_on_the_device_fails_alone(folder: Path) -> None:
    """The picture at fault is named, those beside it and those under way are embedded, all in their order."""
    found = outcomes(folder, Strict(bad=frozenset({6, 21})))
    wrong = [o for o in found if isinstance(o, Failed) and o.code == "encode-failed"]
    assert [Path(o.item.source).name for o in wrong] == ["06.png", "21.png"]
    assert [o.item.id for o in found] == [o.item.id for o in outcomes(folder, FakeEncoder())]
    assert len(vectors(found)) == 28


def test_a_device_that_takes_fewer_gets_parts(folder: Path) -> None:
    """Of a batch; memory that is missing for a while costs no picture."""
    found = outcomes(folder, AheadEncoder(most=3, missing=2), batch=8)
    assert np.array_equal(vectors(found), vectors(outcomes(folder, FakeEncoder())))


def test_nothing_is_left_on_the_device_by_who_stops_early(folder: Path) -> None:
    """The encoder is free for the next caller."""
    encoder = AheadEncoder()
    files = [str(file) for file in sorted(folder.iterdir())]
    batches = stream(items(files), encoder, batch=4)
    assert len(list(itertools.islice(batches, 2))) == 2
    assert encoder.under_way
    batches.close()
    assert not encoder.under_way


@pytest.mark.parametrize("seed", range(3))
def test_the_bits_of_one_batch_after_the_other(folder: Path, seed: int) -> None:
    """On streams that take turns as they like, each picture has the row that it has alone."""
    encoder: StreamedEncoder = streamed_tower(FakeDevice(seed), 4)
    found = [o for o in outcomes(folder, encoder) if isinstance(o, Embedded)]
    for i, outcome in enumerate(found):
        alone = encoder.encode(np.full((1, 8, 8, 3), i, np.uint8))
        assert outcome.vector.tobytes() == alone[0].tobytes()


def test_a_codec_that_crashes_costs_its_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process goes on, the failure is named, and the pictures beside it are those of a run without it."""
    expected = outcomes(folder, FakeEncoder())
    hooked = functools.partial(DecoderPool, 1, decode="tests.support.light_steps:decode")
    monkeypatch.setattr(stream_module, "DecoderPool", lambda _, *about, **options: hooked(*about, **options))
    crashing = folder / "07a.png"
    crashing.write_bytes((folder / "07.png").read_bytes() + CRASH)
    try:
        found = outcomes(folder, FakeEncoder())
    finally:
        crashing.unlink()
    (failed,) = [o for o in found if Path(o.item.source).name == crashing.name]
    assert isinstance(failed, Failed)
    assert failed.code == "decode-failed"
    assert "died or hung, and did so again" in failed.message
    assert np.array_equal(vectors(found), vectors(expected))
