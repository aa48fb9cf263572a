"""The arrays of a model folder, read in pieces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from imgclust.errors import ModelError
from imgclust.model import folder as layout
from imgclust.model.folder import Array

if TYPE_CHECKING:
    import pyarrow as pa


PIECE = 1 << 20  # numbers that are read at once


def read_arrays(path: Path) -> dict[str, Array]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = file.keys()
            arrays = {name: _read_array(file, name) for name in names}
    except safetensors.SafetensorError as error:
        raise ModelError(f"{str(path)!a} is damaged: {str(error)!a}") from error
    layout.check_arrays(arrays)
    return arrays


def _read_array(file: Any, name: str) -> Array:
    """An array, read in pieces: each holds the interpreter's lock, and a worker that changes its model while
    it runs would stand still for all of a large one (0.13 s for 150,000 images)."""
    part = file.get_slice(name)
    shape = part.get_shape()
    step = max(1, PIECE // max(1, math.prod(shape[1:])))
    if not shape or shape[0] <= step:
        array: Array = file.get_tensor(name)
        return array
    first = part[0:step]
    array = np.empty(shape, first.dtype)
    array[:step] = first
    for start in range(step, shape[0], step):
        end = min(start + step, shape[0])
        array[start:end] = part[start:end]
    return array


def read_map(data: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # without threads: pyarrow's pool, started late in a process that uses torch, can abort its exit
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        if file.metadata.num_rows > layout.MAP_ROWS:
            raise ModelError(f"{layout.MAP} has {file.metadata.num_rows} rows, at most {layout.MAP_ROWS}")
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if size > layout.MAX_JSON:
            raise ModelError(f"{layout.MAP} unpacks to {size} bytes, at most {layout.MAX_JSON} are read")
        return file.read(columns=["id", "x", "y", "cluster"], use_threads=False)
    except pa.ArrowException as error:
        raise ModelError(f"{layout.MAP} is damaged: {str(error)!a}") from error
