"""The steps that an engine runs on its machines: batch in, batch out, and nothing remembered between them.

Each is a pure function of a `pyarrow.RecordBatch` and of what it was made with, so any engine that maps Arrow
batches can run it: Ray's `map_batches` (`imgclust.engines.ray_data`), Spark's `mapInArrow`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from imgclust.embedding.store import write_apart
from imgclust.embedding.stream import BATCH, stream
from imgclust.engines.batches import EMBEDDED, items_of, of_outcomes, report_of
from imgclust.images.decode import DEFAULT_LIMITS, Limits
from imgclust.images.decoder_pool import DECODE, DecoderPool
from imgclust.images.reader import Reader
from imgclust.support.machine import available_cores
from imgclust.support.path_text import from_text
from imgclust.tagging.files import as_record, schema
from imgclust.tagging.rows import predict_rows
from imgclust.types import Encoder, EncoderIdentity

if TYPE_CHECKING:
    from imgclust.fetching.urls import FetchPolicy
    from imgclust.model.model import ClusterModel

PREDICTED = pa.schema([*schema(), ("code", pa.string()), ("message", pa.string())])


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


@dataclasses.dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How a machine reads and encodes images; travels to each of them.

    Attributes:
        identity: the encoder that has to come of it.
        device, precision, weights: see `imgclust.embedding.encoder.load_encoder`; `weights` is a path there.
        batch: images per call of the encoder.
        workers: processes that decode; None: as many as cores.
        limits: what one image may cost.
        policy: what may be fetched; None: URLs of public addresses.
        decode: dotted name of the decoder; tests put a crashing one here.
        folder: where relative paths begin; by default where these options are made.
    """

    identity: EncoderIdentity
    device: str = "auto"
    precision: str = "float32"
    weights: Path | None = None
    batch: int = BATCH
    workers: int | None = None
    limits: Limits = DEFAULT_LIMITS
    policy: FetchPolicy | None = None
    decode: str = DECODE
    folder: str = dataclasses.field(default_factory=_working_folder)

    def decoders(self) -> DecoderPool:
        """Processes of this machine that decode; for all its batches."""
        return DecoderPool(
            self.workers or available_cores(), self.identity.preprocessing, self.limits, hashed=True,
            decode=self.decode,
        )  # fmt: skip

    def encoder(self) -> Encoder:
        """
        Raises:
            EncoderError: it cannot be had.
            EmbeddingsError: what is there is another encoder.
        """
        from imgclust.embedding.encoder import load_encoder

        encoder = load_encoder(
            self.identity.name,
            device=self.device,
            precision=self.precision,
            weights=self.weights,
            max_batch=self.batch,
        )
        encoder.identity.check_same(
            self.identity, "the run was started with", "give all machines the same weights"
        )
        return encoder


def embed_batch(
    batch: pa.RecordBatch, encoder: Encoder, options: EmbedOptions, decoders: DecoderPool | None = None
) -> pa.RecordBatch:
    """Read, decode and encode images.

    Args:
        batch: of `batches.ITEMS`.
        decoders: of `EmbedOptions.decoders`; None: of this batch alone, which takes half a second.

    Returns:
        `batches.embedded_schema`, a row for each of the batch, in its order.
    """
    outcomes = stream(
        items_of(batch),
        encoder,
        batch=options.batch,
        workers=options.workers,
        limits=options.limits,
        reader=Reader(options.policy),
        hashed=True,
        decoder=None if decoders is None else decoders.decode,
    )
    return of_outcomes([outcome for some in outcomes for outcome in some], encoder.identity.dim)


def write_batch(
    batch: pa.RecordBatch,
    encoder: Encoder,
    options: EmbedOptions,
    decoders: DecoderPool | None,
    folder: Path,
    columns: pa.Schema,
) -> pa.RecordBatch:
    """Read, decode and encode images, and write their embeddings beside an embeddings folder's shards.

    Args:
        batch: of `batches.to_be_written`; embeddings of contested images are returned, and not written.
        decoders: as of `embed_batch`.
        folder: on storage that this machine shares with the process that adopts what is written.
        columns: of a shard, see `imgclust.embedding.store.schema`.

    Returns:
        `batches.REPORTED`, a row for each of the batch, in its order.

    Raises:
        EmbeddingsError: they cannot be written.
    """
    embedded = embed_batch(batch, encoder, options, decoders)
    codes, contested = embedded.column("code").to_pylist(), batch.column("contested").to_pylist()
    stored = [code == EMBEDDED and not other for code, other in zip(codes, contested, strict=True)]
    shard = ""
    if any(stored):
        rows = pa.Table.from_batches([embedded.filter(pa.array(stored))])
        shard = write_apart(folder, rows.select(columns.names).cast(columns))
    return report_of(embedded, stored, shard)


def predict_batch(batch: pa.RecordBatch, model: ClusterModel) -> pa.RecordBatch:
    """Predict embeddings.

    Args:
        batch: with the columns `id`, `source`, `attributes` (JSON) and `embedding`; where there is a column
            `code`, as `embed_batch` writes it, rows whose code is not empty are passed on without a cluster.

    Returns:
        `PREDICTED`, a row for each of the batch, in its order.
    """
    rows = batch.select(["id", "source", "attributes"]).to_pylist()
    names = batch.schema.names
    codes = batch.column("code").to_pylist() if "code" in names else [EMBEDDED] * len(rows)
    messages = batch.column("message").to_pylist() if "message" in names else [""] * len(rows)
    predicted = _predicted(batch.filter(pa.array([code == EMBEDDED for code in codes])), model)
    records = [
        {**(next(predicted) if code == EMBEDDED else row), "code": code, "message": message}
        for row, code, message in zip(rows, codes, messages, strict=True)
    ]
    return pa.RecordBatch.from_pylist(records, schema=PREDICTED)


def _predicted(batch: pa.RecordBatch, model: ClusterModel) -> Iterator[dict[str, Any]]:
    if not len(batch):
        return
    dim = batch.schema.field("embedding").type.list_size
    vectors = batch.column("embedding").flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    rows = predict_rows(
        model,
        batch.column("id").to_pylist(),
        [from_text(source) for source in batch.column("source").to_pylist()],
        vectors.astype(np.float32),
        [json.loads(text) for text in batch.column("attributes").to_pylist()],
    )
    yield from map(as_record, rows)
