"""The same picture, the same bits: whatever the batch, the place in it, the neighbours and the threads."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgclust.embedding import mini
from imgclust.embedding.network import Network
from imgclust.embedding.openclip import ImageTower
from imgclust.embedding.torch_encoder import ONE_SHAPE, TorchEncoder
from imgclust.types import Floats, Preprocessing

SIDE, PICTURES = 64, 12
TOWERS: dict[str, dict[str, Any]] = {
    "ViT": {"image_size": SIDE, "layers": 3, "width": 128, "patch_size": 16, "head_width": 32},
    "ResNet": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 32, "patch_size": None},
}
TEXT = {"context_length": 77, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}


def network(visual: torch.nn.Module, side: int) -> Network:
    def no_words(_: object) -> tuple[list[str], Floats]:
        raise NotImplementedError

    return Network("test", "test", visual, Preprocessing(size=side, resize=side), no_words)


def tower(name: str) -> Network:
    """An open_clip image tower with random weights."""
    import open_clip  # takes two seconds of every process that only looks for its tests

    torch.manual_seed(3)
    model = open_clip.CLIP(embed_dim=64, vision_cfg=TOWERS[name], text_cfg=TEXT)
    return network(ImageTower(model.visual), TOWERS[name]["image_size"])


@functools.cache
def encoder(name: str, precision: str) -> TorchEncoder:
    loaded = mini.load() if name == "mini" else tower(name)
    return TorchEncoder(loaded, torch.device("cpu"), precision)


def noise(n: int, side: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (n, side, side, 3), np.uint8)


@functools.cache
def expected(name: str, precision: str) -> Floats:
    it = encoder(name, precision)
    return it.encode(noise(PICTURES, it.identity.preprocessing.size))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def check(name: str, precision: str, rows: list[int]) -> None:
    """Chosen pictures have the bits that they have in the whole, in 1, 2 and 4 threads."""
    wanted, it = expected(name, precision)[rows], encoder(name, precision)
    pictures = noise(PICTURES, it.identity.preprocessing.size)[rows]
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        assert it.encode(pictures).tobytes() == wanted.tobytes(), threads


batches = st.lists(st.integers(0, PICTURES - 1), min_size=1, max_size=9)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", TOWERS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=batches)
def test_open_clip_towers(name: str, precision: str, rows: list[int]) -> None:
    """Vision transformers and ResNets: any choice, order and number of pictures."""
    check(name, precision, rows)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, PICTURES - 1), min_size=1, max_size=3))
def test_mini(precision: str, rows: list[int]) -> None:
    """The convolutional network of the wheel, likewise."""
    check("mini", precision, rows)


@pytest.mark.parametrize("name", ["mini", "ViT", "ResNet"])
def test_no_picture_is_padded_for_it(name: str) -> None:
    """A picture alone stays alone: the bits come from the arithmetic, not from one large shape."""
    assert encoder(name, "float32").shapes == (1, 2, 4)


class _Careless(torch.nn.Module):
    """What a network does whose rounding depends on the length of the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :8] * (1.0 + 1e-3 * len(x)) + 1.0


def test_where_shapes_round_differently_there_is_one() -> None:
    """A network that keeps no promise is found out when it is loaded: then every batch has one shape, and a
    picture has the same bits again."""
    careless = TorchEncoder(network(_Careless(), SIDE), torch.device("cpu"), "float32")
    assert careless.shapes == (ONE_SHAPE,)
    pictures = noise(7, SIDE)
    alone = np.concatenate([careless.encode(pictures[i : i + 1]) for i in range(7)])
    assert careless.encode(pictures).tobytes() == alone.tobytes()


def test_weights_keep_their_hash() -> None:
    """What is replaced for the bits changes neither the identity of an encoder nor its embeddings, beyond
    rounding."""
    plain = tower("ViT")
    pixels = noise(3, SIDE)
    p = plain.preprocessing
    scaled = (pixels / 255 - np.array(p.mean)) / np.array(p.std)
    with torch.inference_mode():
        reference = plain.visual.eval()(torch.from_numpy(scaled).permute(0, 3, 1, 2).float()).numpy()
    rows = encoder("ViT", "float32").encode(pixels)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, reference, atol=1e-3)
