"""imgclust.embedding.cuda, as far as no GPU is needed: what the driver is asked, and what a refusal does."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from imgclust.embedding import cuda


class Runtime:
    """Stands where CUDA's runtime stands."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        self.calls.append(("register", address, nbytes, flags))
        return self.answer

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.calls.append(("unregister", address))
        return 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime(0)
    monkeypatch.setattr(cuda, "_runtime", lambda: found)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: found.calls.append(("wait",)))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return found


def test_memory_is_pinned_and_given_back(runtime: Runtime) -> None:
    """All of it, once; before it is given back all copies from it have ended."""
    memory = np.zeros((4, 8, 8, 3), np.uint8)
    device = cuda.Cuda(torch.device("cuda:1"))
    assert device.register(memory) is None
    device.unregister()
    device.unregister()
    address = memory.ctypes.data
    assert runtime.calls == [("register", address, 768, 1), ("wait",), ("unregister", address)]


def test_a_refusal_has_a_reason_and_nothing_to_give_back(runtime: Runtime) -> None:
    """The text names the call, the size and the driver's answer."""
    runtime.answer = 2
    device = cuda.Cuda(torch.device("cuda"))
    said = device.register(np.zeros((4, 8, 8, 3), np.uint8))
    assert said == "cudaHostRegister refused 768 bytes: 2"
    runtime.calls.clear()
    device.unregister()
    assert runtime.calls == []


def network(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float()


def test_without_a_graph_the_network_runs_as_it_is(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was not asked for, and, with a warning, where it cannot be had; memory is another matter."""
    device = torch.device("cuda")
    assert cuda.Cuda(device, graphs=False).captured(network, (1, 2)) is network
    monkeypatch.setattr(cuda.Cuda, "empty", lambda self, shape, dtype: torch.zeros(shape, dtype=dtype))

    def refuse(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda, "_captured", refuse)
    with pytest.warns(RuntimeWarning, match="operation by operation.*not permitted"):
        assert cuda.Cuda(device).captured(network, (1, 2)) is network

    def exhausted(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda, "_captured", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        cuda.Cuda(device).captured(network, (1, 2))
