"""Images and what came of them as Arrow batches: what travels between the machines of an engine."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgclust.embedding.embed import Stored
from imgclust.embedding.stream import Embedded, EmbedOutcome, Failed, Present, Skipped
from imgclust.images.sources import Item
from imgclust.support.path_text import from_text, storable, to_text

ITEMS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("named", pa.bool_()),
        ("fixed_id", pa.bool_()),
        ("problem", pa.string()),
        ("attributes", pa.string()),
    ]
)
EMBEDDED, SKIPPED = "", "skipped"  # in the column "code", beside the codes of what failed
CONTESTED = pa.field("contested", pa.bool_())  # whether its content decides its id
REPORTED = pa.schema(
    [
        ("shard", pa.string()),
        ("sha256", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("embedding", pa.list_(pa.float16())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("phash", pa.uint64()),
    ]
)


def embedded_schema(dim: int) -> pa.Schema:
    """Items with their embeddings: float16 of unit length; null where "code" says that there is none."""
    return pa.schema(
        [
            *ITEMS,
            ("embedding", pa.list_(pa.float16(), dim)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sha256", pa.string()),
            ("phash", pa.uint64()),
            ("code", pa.string()),
            ("message", pa.string()),
        ]
    )


def of_items(items: Sequence[Item]) -> pa.RecordBatch:
    """Of `ITEMS`' columns."""
    rows = [_item_row(item) for item in items]
    return pa.RecordBatch.from_pylist(rows, schema=ITEMS)


def in_batches(items: Iterable[Item], rows: int) -> Iterator[pa.RecordBatch]:
    """Of at most so many rows each; nothing more is held."""
    rest = iter(items)
    while some := list(itertools.islice(rest, rows)):
        yield of_items(some)


def to_be_written(items: Sequence[Item], contested: Iterable[bool]) -> pa.RecordBatch:
    """Of `ITEMS`' columns and `CONTESTED`."""
    return of_items(items).append_column(CONTESTED, pa.array(contested, pa.bool_()))


def items_of(batch: pa.RecordBatch) -> list[Item]:
    """The items of a batch with `ITEMS`' columns."""
    return [
        Item(
            row["id"], from_text(row["source"]), row["named"], json.loads(row["attributes"]), row["fixed_id"],
            row["problem"],
        )
        for row in batch.select(ITEMS.names).to_pylist()
    ]  # fmt: skip


def of_outcomes(outcomes: Sequence[EmbedOutcome], dim: int) -> pa.RecordBatch:
    """Of `embedded_schema`."""
    rows = []
    for outcome in outcomes:
        row = {**_item_row(outcome.item), "code": EMBEDDED, "message": ""}
        match outcome:
            case Embedded():
                row |= {
                    "embedding": outcome.vector.astype(np.float16), "width": outcome.width,
                    "height": outcome.height, "sha256": outcome.sha256, "phash": outcome.phash,
                }  # fmt: skip
            case Failed():
                row |= {"code": outcome.code, "message": storable(outcome.message)}
            case Skipped() | Present():
                row["code"] = SKIPPED
        rows.append(row)
    return pa.RecordBatch.from_pylist(rows, schema=embedded_schema(dim))


def report_of(embedded: pa.RecordBatch, stored: Sequence[bool], shard: str) -> pa.RecordBatch:
    """What a worker reports of the images that it has embedded; of those that it has stored, no embedding.

    Args:
        embedded: of `embedded_schema`.
        stored: whether each is in `shard`.
    """
    codes = embedded.column("code").to_pylist()
    vectors = [
        vector.values.to_numpy() if code == EMBEDDED and not there else None
        for vector, code, there in zip(embedded.column("embedding"), codes, stored, strict=True)
    ]
    columns = {
        **{name: embedded.column(name) for name in REPORTED.names if name in embedded.schema.names},
        "shard": pa.array([shard if there else None for there in stored], pa.string()),
        "embedding": pa.array(vectors, REPORTED.field("embedding").type),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in REPORTED.names], schema=REPORTED)


def outcomes_of(report: pa.RecordBatch, items: Sequence[Item]) -> list[EmbedOutcome | Stored]:
    """What became of items.

    Args:
        report: of `report_of`, a row for each of them.
    """
    found: list[EmbedOutcome | Stored] = []
    dim = max(pc.list_value_length(report.column("embedding")).drop_null().to_pylist(), default=0)
    flat = report.column("embedding").flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = iter(flat.reshape(-1, max(1, dim)))
    known = report.select([name for name in report.schema.names if name != "embedding"])
    for item, row in zip(items, known.to_pylist(), strict=True):
        if row["code"] == SKIPPED:
            found.append(Skipped(item))
        elif row["code"] != EMBEDDED:
            found.append(Failed(item, row["code"], row["message"]))
        elif row["shard"] is not None:
            found.append(Stored(item, row["sha256"]))
        else:
            sizes = row["width"], row["height"]
            found.append(Embedded(item, next(vectors), *sizes, row["sha256"], row["phash"]))
    return found


def whole(table: pa.Table) -> pa.RecordBatch:
    """A table as one batch."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _item_row(item: Item) -> dict[str, object]:
    attributes = json.dumps(dict(item.attributes), ensure_ascii=False, sort_keys=True)
    return {
        "id": storable(item.id), "source": to_text(item.source), "named": item.named,
        "fixed_id": item.fixed_id, "problem": storable(item.problem), "attributes": attributes,
    }  # fmt: skip
