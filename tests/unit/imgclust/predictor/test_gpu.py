"""The code for GPUs, run on the processor: only the hardware is left untested."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from imgclust.predictor import exact
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.types import Prediction
from tests.support.frozen_pair import embeddings, frozen_pair


@pytest.mark.parametrize(
    "umap",
    [
        {},
        {"metric": "cosine", "n_neighbors": 15},
        {"repulsion_strength": 2.0, "negative_sample_rate": 15},
        {"local_connectivity": 2.5, "n_epochs": 300, "learning_rate": 0.5},
    ],
)
def test_torch_gives_the_same_answers(umap: dict[str, object]) -> None:
    """On a processor the torch code and the numpy code agree bit for bit, unsettled points included."""
    arrays, params = frozen_pair(n=500, seed=3, **umap)
    rows = embeddings(300, 24, 5, seed=3)[0]
    cpu, device = FrozenPredictor(arrays, params), FrozenPredictor(arrays, params, device="torch-cpu")
    expected, got = cpu.predict(rows), device.predict(rows)
    for field in dataclasses.fields(Prediction):
        assert getattr(got, field.name).tobytes() == getattr(expected, field.name).tobytes(), field.name
    assert device.unsettled == cpu.unsettled
    assert np.unique(expected.labels).size > 2


def test_mps_predicts_on_the_processor() -> None:
    """A device without float64 does not fail: the encoder may be on it, the predictor is not."""
    arrays, params = frozen_pair(n=300)
    rows = embeddings(5, 24, 5, seed=0)[0]
    expected = FrozenPredictor(arrays, params).predict(rows)
    assert (
        FrozenPredictor(arrays, params, device="mps").predict(rows).labels.tolist()
        == expected.labels.tolist()
    )


# What every device computes alike: moves, comparisons, integers, and what is rounded correctly, number by
# number. `topk` is asked for values only, `sort` without ties or stable; `bmm` adds up what is exact.
SAME_EVERYWHERE = {
    "__and__", "__bool__", "__eq__", "__get__", "__getitem__", "__int__", "__invert__", "__ior__",
    "__len__", "__lshift__", "__rshift__", "__rsub__", "__setitem__", "_int_mm", "abs", "add", "add_",
    "amax", "amin", "any", "arange", "argsort", "bincount", "bmm", "cat", "clamp", "clip", "concatenate",
    "contiguous", "cpu", "cumprod", "cumsum", "dim", "div", "double", "flip", "float", "floor", "full_like",
    "gather", "ge", "gt", "le", "long", "lt", "max", "maximum", "minimum", "mul", "mul_", "neg", "numpy",
    "ones_like", "repeat_interleave", "reshape", "round", "sort", "sqrt", "stack", "sub", "sum", "swapaxes",
    "t", "take_along_dim", "tensor", "to", "topk", "unbind", "view", "where", "zeros",
}  # fmt: skip


class Devices(TorchFunctionMode):
    """Refuses what a GPU may round otherwise than a processor."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        assert name in SAME_EVERYWHERE, f"{name} may round otherwise elsewhere"
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if name == "div":
            assert all(isinstance(x, torch.Tensor) and x.dim() for x in args), (
                "a GPU multiplies by an inverse"
            )
        if name in ("sum", "cumsum"):
            assert first is not None
            assert not first.is_floating_point(), "the order of a sum depends on the device"
        if name == "cumprod":
            assert first is not None
            assert args[1] == 0
            assert first.shape[1] > 1, "on a GPU a single column is multiplied in an order of its own"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("m", [1, 2, 40])
@pytest.mark.parametrize("umap", [{}, {"metric": "cosine"}, {"local_connectivity": 2.5}])
def test_nothing_is_used_that_rounds_otherwise_elsewhere(m: int, umap: dict[str, object]) -> None:
    """Every operation of the code for GPUs is one that gives the same bits on every device."""
    arrays, params = frozen_pair(n=300, seed=3, **umap)
    rows = embeddings(40, 24, 5, seed=3)[0]
    predictor = FrozenPredictor(arrays, params, device="torch-cpu")
    assert predictor._locator is not None
    with Devices():
        located = predictor._locator.locate(rows[:m])
    assert len(located.points) == m


@pytest.mark.parametrize(
    "work", [lambda x: x / 3, lambda x: 3 / x, lambda x: x.sum(), lambda x: x.cumprod(0), torch.exp]
)
def test_what_rounds_otherwise_elsewhere_would_be_found(work: Callable[[torch.Tensor], Any]) -> None:
    """The test above can fail."""
    values = torch.tensor([[0.1], [0.3]], dtype=torch.float64)
    with Devices(), pytest.raises(AssertionError):
        work(values)


def test_quotients_are_rounded_once() -> None:
    """Numbers by arrays and arrays by numbers, on both libraries: what Python's own division gives."""
    values = np.random.default_rng(0).uniform(0.1, 3.0, 500)
    for number in (3.0, 7, 0.7310585786300049):
        one, other = [number / v for v in values.tolist()], [v / number for v in values.tolist()]
        for array in (values, torch.from_numpy(values)):
            assert exact.quotient(number, array).tolist() == one
            assert exact.quotient(array, number).tolist() == other


def test_running_products_of_one_column() -> None:
    """As those of many."""
    values = np.random.default_rng(0).uniform(0.5, 1.5, (20, 3))
    whole = exact.running_product(values)
    for column in range(3):
        alone = exact.running_product(torch.from_numpy(values[:, column : column + 1].copy()))
        assert alone.ravel().tolist() == whole[:, column].tolist()
