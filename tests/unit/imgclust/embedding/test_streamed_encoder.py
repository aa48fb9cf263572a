"""imgclust.embedding.streamed_encoder: an encoder on a device that goes on by itself, on a fake one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.fake_device import FakeDevice
from imgclust.embedding.torch_encoder import TorchEncoder
from imgclust.types import StreamingEncoder
from tests.support.towers import SIDE, streamed_tower, tower_network


def noise(n: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)


def test_the_same_rows_as_on_a_processor() -> None:
    """Whatever is asked for comes in batches of the one shape, and gives what the plain encoder gives."""
    encoder, plain = (
        streamed_tower(FakeDevice(3)),
        TorchEncoder(tower_network(), torch.device("cpu"), "float32", 8),
    )
    assert isinstance(encoder, StreamingEncoder)
    assert not isinstance(plain, StreamingEncoder)
    assert encoder.shapes == (8,)
    for n in (1, 8, 21):
        np.testing.assert_allclose(encoder.encode(noise(n)), plain.encode(noise(n)), atol=1e-3)
    assert encoder.identity.same_space(plain.identity)


def test_pictures_may_lie_as_they_like() -> None:
    """Mirrored, read-only, every other one: torch takes none of these as they are."""
    encoder, pixels = streamed_tower(FakeDevice()), noise(6)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings(action="error"):
        for odd in (pixels[:, :, ::-1], pixels[::-1], pixels[::2], frozen):
            assert np.array_equal(encoder.encode(odd), encoder.encode(odd.copy()))


def test_batches_that_are_put_are_taken_in_order() -> None:
    """`put` and `take` give the bits of `encode`."""
    encoder = streamed_tower(FakeDevice(4))
    first, second = noise(13)[:8], noise(13)[8:]
    expected = encoder.encode(noise(13))
    encoder.put(list(first))
    encoder.put(list(second))
    assert encoder.full
    assert encoder.under_way == 2
    assert np.array_equal(np.concatenate([encoder.take(), encoder.take()]), expected)


def test_the_one_shape_becomes_smaller_when_memory_is_short() -> None:
    """A batch of the one shape finds no memory, however few pictures are in it: the shape is halved until it
    does, and each step is told."""
    encoder = streamed_tower(FakeDevice(most=2))
    with pytest.raises(torch.OutOfMemoryError):
        encoder.put(list(noise(1)))
    with pytest.warns(RuntimeWarning, match="from now on batches have") as told:
        rows = encoder.encode(noise(5))
    assert [str(w.message).split()[6] for w in told] == ["8", "4"]
    assert (encoder.shapes, encoder.most) == ((2,), 2)
    assert np.isfinite(rows).all()
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(encoder.encode(noise(5)), rows)


def test_a_device_without_memory_for_one_picture_says_so() -> None:
    """Nothing is left to be made smaller: the error is the caller's, and memory that comes back is used."""
    device = FakeDevice(most=0)
    encoder = streamed_tower(device, 2)
    with pytest.warns(RuntimeWarning, match="from now on"), pytest.raises(torch.OutOfMemoryError):
        encoder.encode(noise(3))
    device.most = 1
    assert len(encoder.encode(noise(3))) == 3


def test_memory_is_registered_where_it_can_be() -> None:
    """The device is given the memory, or says why not."""
    memory = noise(4)
    device = FakeDevice()
    encoder = streamed_tower(device)
    assert encoder.register(memory) is None
    assert device.registered is memory
    encoder.unregister()
    assert device.registered is None
    assert streamed_tower(FakeDevice(refuses="no more")).register(memory) == "no more"
