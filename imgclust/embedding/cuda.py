"""What a GPU is asked for: streams, events, memory that it reads by itself, and a network as one graph."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

from imgclust.embedding.encode_stream import Network
from imgclust.support.machine import is_out_of_memory
from imgclust.types import Pixels

_PORTABLE = 1  # cudaHostRegisterPortable: for all devices of this process
_WARM_UP = 3  # calls before a capture, in which libraries choose their kernels and take their memory
_CLOSE = 4e-3  # numbers of unit rows differ by less: the last bit of a float16 is worth 5e-4


class Cuda:
    """A `Device` that is a GPU.

    Args:
        graphs: False runs a network operation by operation.
    """

    def __init__(self, device: torch.device, *, graphs: bool = True) -> None:
        self._device, self._graphs = device, graphs
        self._registered: Pixels | None = None

    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # who waits leaves the core

    def on(self, stream: torch.cuda.Stream) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def record(self, event: torch.cuda.Event, stream: torch.cuda.Stream) -> None:
        event.record(stream)

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        stream.wait_event(event)

    def synchronise(self, event: torch.cuda.Event) -> None:
        event.synchronize()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory that is there, and zero, for every stream; what was asked for before is done by then too:
        weights that are on their way."""
        memory = torch.zeros(shape, dtype=dtype, device=self._device)
        torch.cuda.current_stream(self._device).synchronize()
        return memory

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        with torch.cuda.device(self._device):  # else the first GPU gets a context, and loses memory to it
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def captured(self, network: Network, shape: tuple[int, ...]) -> Network:
        """A network as a CUDA graph of one shape: one launch instead of some hundreds.

        Where the driver, a library or the network itself does not allow it, or where it would give other
        rows, a warning says so, and the network is run as it is.
        """
        if not self._graphs:
            return network
        try:
            with torch.cuda.device(self._device):
                return _captured(network, self.empty(shape, torch.uint8))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            warnings.warn(
                f"the encoder is not run as a CUDA graph but operation by operation, which is slower for "
                f"small batches ({type(error).__name__}: {ascii(str(error))[:200]})",
                RuntimeWarning,
                stacklevel=2,
            )
            return network

    def register(self, memory: Pixels) -> str | None:
        """Have the driver pin memory, so that copies from it are made by the GPU alone, beside all else.

        Returns:
            None, or why it was refused; copies from it work then too, but the host takes part in them.
        """
        with torch.cuda.device(self._device):
            found = _runtime().cudaHostRegister(memory.ctypes.data, memory.nbytes, _PORTABLE)
        if int(found) != 0:
            return f"cudaHostRegister refused {memory.nbytes} bytes: {found}"
        self._registered = memory
        return None

    def unregister(self) -> None:
        """Before the memory goes: give back what `register` pinned."""
        memory, self._registered = self._registered, None
        if memory is not None:
            torch.cuda.synchronize(self._device)
            _runtime().cudaHostUnregister(memory.ctypes.data)

    def release_cached(self) -> None:
        """Give back what torch keeps for later."""
        torch.cuda.empty_cache()


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _captured(network: Network, pixels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    pixels.random_(0, 256)
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UP):
            expected = network(pixels).clone()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    # others may go on meanwhile: the predictor, on this device too
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        rows = network(pixels)
    graph.replay()
    torch.cuda.synchronize()
    if not torch.allclose(rows, expected, rtol=0.0, atol=_CLOSE):
        raise RuntimeError("the graph gives other rows than the network")

    def replay(given: torch.Tensor) -> torch.Tensor:
        pixels.copy_(given, non_blocking=True)  # within the device: it takes microseconds
        graph.replay()
        return rows

    return replay
