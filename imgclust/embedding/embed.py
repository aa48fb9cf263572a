"""Images → an embeddings folder: what is new is read, decoded, encoded and written in shards, as a stream."""

from __future__ import annotations

import csv
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pyarrow as pa

from imgclust.embedding.known import KnownImages, Meeting
from imgclust.embedding.manifest import RunRecord
from imgclust.embedding.store import EmbeddingsWriter, schema
from imgclust.embedding.stream import (
    BATCH,
    NOT_AN_IMAGE,
    Embedded,
    EmbedOutcome,
    Failed,
    Present,
    Skipped,
    stream,
)
from imgclust.errors import EmbeddingsError
from imgclust.images import containers
from imgclust.images.decode import DEFAULT_LIMITS, Limits
from imgclust.images.reader import Reader
from imgclust.images.sources import Item, items
from imgclust.support.path_text import storable, to_text
from imgclust.support.progress import Bar, bar_for
from imgclust.support.spreadsheets import guard
from imgclust.types import Encoder

FLUSH_ROWS = 10_000
FLUSH_SECONDS = 30.0  # a killed run loses at most so much work
FAILED = "failed.csv"
MET_BEFORE = "the same file again"
DUPLICATE_ID = "duplicate-id"


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """An image whose embedding is in a shard already, written by whoever encoded it."""

    item: Item
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A folder for an engine whose workers write the shards themselves.

    Attributes:
        folder: an absolute path.
        columns: of a shard, with its metadata.
        is_contested: whether an item's id is decided by its content, so that its embedding has to come back.
        adopt: makes a file that a worker has written a shard, by its name.
    """

    folder: Path
    columns: pa.Schema
    is_contested: Callable[[Item], bool]
    adopt: Callable[[str], None]


Outcomes = Callable[[Iterable[Item], Target], Generator[Sequence[EmbedOutcome | Stored]]]


@dataclasses.dataclass(slots=True)
class EmbedSummary:
    """What came of a run.

    Attributes:
        folder: where the embeddings are.
        embedded: images added by this run.
        present: images that the folder held before, by their place or their content.
        renamed: of the embedded, those that got another id, as theirs was another image's.
        skipped: reason → files that were passed over.
        failed: error code → images; each with its reason in `failed.csv`.
        needs_heif: of the failed, those that the extra `heif` would read.
        seconds: that the run took.
    """

    folder: Path
    embedded: int = 0
    present: int = 0
    renamed: int = 0
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    failed: Counter[str] = dataclasses.field(default_factory=Counter)
    needs_heif: int = 0
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        return self.embedded / self.seconds if self.seconds else 0.0


def embed(
    sources: Iterable[str | Path],
    out: Path | str,
    encoder: Encoder,
    *,
    batch: int = BATCH,
    workers: int | None = None,
    progress: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    reader: Reader | None = None,
    outcomes: Outcomes | None = None,
    engine: str = "this process",
    clock: Callable[[], float] = time.monotonic,
) -> EmbedSummary:
    """Embed images into a folder of Parquet shards; may be interrupted and run again at any time.

    Images that the folder already holds are not embedded again; `imgclust.embedding.known` has the rules.
    Broken ones are listed in `failed.csv` beside the shards and tried again by the next run.

    Args:
        sources: folders, files, CSV/TSV/Parquet lists, http(s) URLs; see `imgclust.images.sources.items`.
        out: the folder; made if missing.
        batch: images per call of the encoder.
        workers: processes that decode; by default as many as cores.
        progress: show a bar (on a terminal) or a line now and then, on stderr.
        limits: what one image may cost.
        reader: how bytes are had; by default files, and URLs of public addresses.
        outcomes: what reads, decodes, encodes and writes instead of this process; see `imgclust.engines`.
        engine: how the manifest calls that.
        clock: monotonic seconds.

    Raises:
        EmbeddingsError: the folder is another encoder's, or another process writes to it.
        ImgclustError: a source does not exist.
    """
    sources, started = list(sources), clock()
    summary = EmbedSummary(Path(out))
    with ExitStack() as stack:
        writer = stack.enter_context(
            EmbeddingsWriter(summary.folder, encoder.identity, shard_rows=FLUSH_ROWS)
        )
        made_with = {"engine": engine, "batch": batch, **dataclasses.asdict(limits)}
        record = RunRecord(summary.folder, encoder.identity, made_with, first_shard := writer.next_shard)
        failures = stack.enter_context(_FailureList(summary.folder / FAILED))
        known = KnownImages(summary.folder)
        bar = stack.enter_context(bar_for("embed", _counter(sources) if progress else None))
        todo = _new(items(sources, summary.skipped), known, summary, failures, bar)
        target = Target(summary.folder.absolute(), schema(encoder.identity), known.is_contested, writer.adopt)
        batches: Generator[Sequence[EmbedOutcome | Stored]] = (
            outcomes(todo, target)
            if outcomes
            else stream(
                todo,
                encoder,
                batch=batch,
                workers=workers,
                limits=limits,
                reader=reader,
                is_present=known.is_present,
                hashed=True,
            )
        )
        stack.enter_context(closing(batches))  # so that an error stops the readers at once
        flushed = clock()
        for some in batches:
            for outcome in some:
                _record(outcome, known, writer, failures, summary)
            bar.advance(len(some))
            if clock() - flushed >= FLUSH_SECONDS:
                writer.flush()
                flushed = clock()
        writer.flush()
        record.complete(
            {
                "shards": writer.next_shard - first_shard, "embedded": summary.embedded,
                "present": summary.present, "failed": dict(summary.failed),
            }
        )  # fmt: skip
    summary.seconds = clock() - started
    return summary


def _counter(sources: list[str | Path]) -> Callable[[], int]:
    return lambda: sum(1 for _ in items(sources))


def _new(
    found: Iterable[Item], known: KnownImages, summary: EmbedSummary, failures: _FailureList, bar: Bar
) -> Iterator[Item]:
    """Leave out what the folder holds, and what this run has met before."""
    for item in found:
        meeting = Meeting.NEW if item.problem else known.meet(item)
        match meeting:
            case Meeting.NEW | Meeting.CONTESTED:
                yield item
                continue
            case Meeting.PRESENT:
                summary.present += 1
            case Meeting.REPEATED if item.named:
                reason = "an earlier row or argument of this run names the same image"
                failures.add(Failed(item, DUPLICATE_ID, reason))
                summary.failed[DUPLICATE_ID] += 1
            case Meeting.REPEATED:
                summary.skipped[MET_BEFORE] += 1
        bar.advance(1)


def _record(
    outcome: EmbedOutcome | Stored,
    known: KnownImages,
    writer: EmbeddingsWriter,
    failures: _FailureList,
    summary: EmbedSummary,
) -> None:
    item = outcome.item
    match outcome:
        case Embedded() if known.is_present(item, outcome.sha256):
            summary.present += 1
        case Embedded() if item.fixed_id and known.is_contested(item):
            reason = "another image has this id, here or in an earlier run; ids of lists are never changed"
            failures.add(Failed(item, DUPLICATE_ID, reason))
            summary.failed[DUPLICATE_ID] += 1
        case Embedded():
            name = known.add(item, outcome.sha256)
            writer.append(
                id=name,
                source=item.source,
                embedding=outcome.vector,
                width=outcome.width,
                height=outcome.height,
                sha256=outcome.sha256,
                attributes=item.attributes,
                phash=outcome.phash,
            )
            summary.embedded += 1
            summary.renamed += name != item.id
        case Stored():
            known.add(item, outcome.sha256)
            summary.embedded += 1
        case Failed():
            failures.add(outcome)
            summary.failed[outcome.code] += 1
            summary.needs_heif += containers.HEIF_HINT in outcome.message
        case Skipped():
            summary.skipped[NOT_AN_IMAGE] += 1
        case Present():
            summary.present += 1


class _FailureList:
    """`failed.csv`, written as failures come; there is none where nothing failed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._write: Callable[[Iterable[str]], object] | None = None

    def __enter__(self) -> _FailureList:
        self._path.unlink(missing_ok=True)
        return self

    def add(self, failed: Failed) -> None:
        """Add a line.

        Raises:
            EmbeddingsError: it cannot be written.
        """
        row = (failed.item.id, to_text(failed.item.source), failed.code, storable(failed.message))
        try:
            if self._write is None:
                file = self._stack.enter_context(
                    self._path.open("w", newline="", encoding="utf-8", buffering=1)
                )
                self._write = csv.writer(file).writerow
                self._write(["id", "source", "code", "message"])
            self._write(map(guard, row))
        except OSError as error:
            raise self._unwritable(error) from None

    def __exit__(self, *_: object) -> None:
        try:
            self._stack.close()
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> EmbeddingsError:
        return EmbeddingsError(f"{str(self._path)!a} cannot be written: {error.strerror or error}")
