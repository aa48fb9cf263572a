"""The steps on Ray Data: thin adapters around `imgclust.engines.steps`.

```python
import ray
from imgclust.engines.ray_data import embed_dataset, predict_dataset

images = ray.data.read_parquet("s3://lists/images/")    # the columns of `imgclust.engines.batches.ITEMS`
tags = predict_dataset(embed_dataset(images, EmbedOptions(model.encoder)), model)
```
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgclust.engines.batches import whole
from imgclust.engines.steps import EmbedOptions, embed_batch, predict_batch, write_batch
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from ray.data import Dataset

    from imgclust.model.model import ClusterModel

BLOCK_ROWS = 1024  # images of a task: what is done again where a machine is lost


@dataclasses.dataclass(frozen=True, slots=True)
class Workers:
    """Ray's actors for a step.

    Attributes:
        count: of actors.
        cpus, gpus: of each.
    """

    count: int = 2
    cpus: float = 1
    gpus: float = 0


class Embedder:
    """An actor that has loaded the encoder, with processes that decode for it: they end when it does."""

    def __init__(self, options: EmbedOptions) -> None:
        with contextlib.suppress(OSError):  # a machine without that folder reads absolute paths
            os.chdir(options.folder)
        self._made_with = options.encoder(), options, options.decoders()

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_batches([embed_batch(whole(table), *self._made_with)])


class ShardWriter(Embedder):
    """An actor that embeds, and writes the embeddings beside the shards of a folder."""

    def __init__(self, options: EmbedOptions, folder: Path, columns: pa.Schema) -> None:
        super().__init__(options)
        self._target = folder, columns

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_batches([write_batch(whole(table), *self._made_with, *self._target)])


class Predictor:
    """An actor that has the model."""

    def __init__(self, model: ClusterModel) -> None:
        self._model = model

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_batches([predict_batch(whole(table), self._model)])


def embed_dataset(dataset: Dataset, options: EmbedOptions, workers: Workers = Workers()) -> Dataset:
    """Items, as `imgclust.engines.batches.ITEMS` has them → the same with embeddings and error codes."""
    return _mapped(dataset, Embedder, {"options": options}, workers)


def write_dataset(
    dataset: Dataset, options: EmbedOptions, folder: Path, columns: pa.Schema, workers: Workers = Workers()
) -> Dataset:
    """Items as `imgclust.engines.batches.to_be_written` has them → `REPORTED`, once they are written."""
    return _mapped(dataset, ShardWriter, {"options": options, "folder": folder, "columns": columns}, workers)


def predict_dataset(dataset: Dataset, model: ClusterModel, workers: Workers = Workers()) -> Dataset:
    """Embeddings → predictions, as `imgclust.engines.steps.PREDICTED` has them."""
    return _mapped(dataset, Predictor, {"model": model}, dataclasses.replace(workers, gpus=0))


def _mapped(dataset: Dataset, step: type[Any], arguments: dict[str, Any], workers: Workers) -> Dataset:
    from ray.data import ActorPoolStrategy

    return dataset.map_batches(
        step,
        fn_constructor_kwargs=arguments,
        batch_format="pyarrow",
        batch_size=None,  # a block
        compute=ActorPoolStrategy(size=workers.count),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
    )


def connected() -> Any:
    """Ray, connected to the cluster that `RAY_ADDRESS` names, or to one of this machine alone.

    Raises:
        ImgclustError: it is not installed, or cannot be reached.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImgclustError("--engine ray needs Ray: pip install 'imgclust[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ImgclustError(f"Ray cannot be reached: {error}; check RAY_ADDRESS") from None
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    return ray


def run(batches: Iterable[pa.RecordBatch], *steps: Any, rows: int = BLOCK_ROWS) -> Generator[pa.RecordBatch]:
    """Batches through steps, each a function of a dataset; results in the batches' order.

    Args:
        rows: of a block, at most.

    Raises:
        ImgclustError: an actor failed, or Ray did; what is said is the actor's own reason, if it has one.
    """
    import ray.data
    from ray.exceptions import RayError

    blocks = [
        pa.Table.from_batches([batch.slice(start, rows)])
        for batch in batches
        for start in range(0, len(batch), rows)
    ]
    if not blocks:
        return
    dataset = ray.data.from_arrow(blocks)
    for step in steps:
        dataset = step(dataset)
    try:
        for table in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
            if len(table):
                yield whole(table)
    except RayError as error:
        raise ImgclustError(f"an actor on Ray failed: {_reason(str(error))}") from error


def _reason(text: str) -> str:
    """What a machine's own error says, of the report that Ray makes of it: traces of all who passed it on."""
    own = re.findall(r"^imgclust\.errors\.\w+: (.+)$", text, re.MULTILINE)
    raised = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception): .+$", text, re.MULTILINE)
    return str([text[:300], *raised[:1], *own[:1]][-1])


def parts_of(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Batches, joined to parts of at most so many rows; none is divided."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        if held and count + len(batch) > rows:
            yield held
            held, count = [], 0
        held.append(batch)
        count += len(batch)
    if held:
        yield held
