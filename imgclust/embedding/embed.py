"""Images → an embeddings folder, streaming: read and decode in threads, encode in batches, write in shards.

Pillow and the encoder release the interpreter's lock, so threads keep all cores busy. At no time is more
held than a window of decoded images and one unwritten shard.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from imgclust.embedding.store import EmbeddingsWriter, read_ids
from imgclust.errors import EncoderError, ImageError, UnsupportedFormat
from imgclust.images import containers
from imgclust.images.decode import DEFAULT_LIMITS, Decoded, Limits, decode
from imgclust.images.reader import Reader
from imgclust.images.sources import Item, items
from imgclust.support.machine import available_cores
from imgclust.support.progress import Bar, bar_for
from imgclust.support.spreadsheets import guard
from imgclust.types import Encoder, Floats, Pixels, Preprocessing

BATCH = 64
READERS = 32  # threads that read or fetch; only as many as there are cores decode at once
WINDOW = 4  # batches of decoded images that may wait for the encoder
FLUSH_ROWS = 10_000
FLUSH_SECONDS = 30.0  # a killed run loses at most so much work
FAILED = "failed.csv"
NOT_AN_IMAGE = "not an image"
BAD_ROW = "bad-row"


@dataclasses.dataclass(frozen=True, slots=True)
class Embedded:
    """An image in the encoder's space. `vector`: float32 (dim,); `sha256`: hex, of the file's bytes."""

    item: Item
    vector: Floats
    width: int
    height: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """An image that could not be had: a code of `imgclust.errors`, and the reason for people."""

    item: Item
    code: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A file of a folder that is no image."""

    item: Item


EmbedOutcome = Embedded | Failed | Skipped


@dataclasses.dataclass(frozen=True, slots=True)
class _Decoded:
    item: Item
    picture: Decoded
    sha256: str


@dataclasses.dataclass(slots=True)
class EmbedSummary:
    """What came of a run.

    Attributes:
        folder: where the embeddings are.
        embedded: images added by this run.
        present: images that the folder held before.
        skipped: reason → files that were passed over.
        failed: error code → images; each with its reason in `failed.csv`.
        needs_heif: of the failed, those that the extra `heif` would read.
        seconds: that the run took.
    """

    folder: Path
    embedded: int = 0
    present: int = 0
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
    clock: Callable[[], float] = time.monotonic,
) -> EmbedSummary:
    """Embed images into a folder of Parquet shards; may be interrupted and run again at any time.

    Images that the folder already holds (by id) are not read again. Broken ones are listed in `failed.csv`
    beside the shards and tried again by the next run.

    Args:
        sources: folders, files, CSV/TSV/Parquet lists, http(s) URLs; see `imgclust.images.sources.items`.
        out: the folder; made if missing.
        batch: images per call of the encoder.
        workers: threads that decode; by default as many as cores.
        progress: show a bar (on a terminal) or a line now and then, on stderr.
        limits: what one image may cost.
        reader: how bytes are had; by default files, and URLs of public addresses.
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
        failures = stack.enter_context(_FailureList(summary.folder / FAILED))
        known = read_ids(summary.folder)
        bar = stack.enter_context(bar_for("embed", _counter(sources) if progress else None))
        todo = _new(items(sources, summary.skipped), known, summary, failures, bar)
        batches = stream(todo, encoder, batch=batch, workers=workers, limits=limits, reader=reader)
        stack.enter_context(closing(batches))  # so that an error stops the readers at once
        flushed = clock()
        for outcomes in batches:
            for outcome in outcomes:
                _record(outcome, writer, failures, summary)
            bar.advance(len(outcomes))
            if clock() - flushed >= FLUSH_SECONDS:
                writer.flush()
                flushed = clock()
    summary.seconds = clock() - started
    return summary


def _counter(sources: list[str | Path]) -> Callable[[], int]:
    return lambda: sum(1 for _ in items(sources))


def _new(
    found: Iterable[Item], known: set[str], summary: EmbedSummary, failures: _FailureList, bar: Bar
) -> Iterator[Item]:
    """Leave out what the folder holds, and refuse a second image of the same name."""
    met: set[str] = set()
    for item in found:
        if item.id in met:
            failures.add(Failed(item, "duplicate-id", "an earlier image of this run has the same id"))
            summary.failed["duplicate-id"] += 1
        elif item.id in known:
            summary.present += 1
        else:
            met.add(item.id)
            yield item
            continue
        met.add(item.id)
        bar.advance(1)


def _record(
    outcome: EmbedOutcome, writer: EmbeddingsWriter, failures: _FailureList, summary: EmbedSummary
) -> None:
    item = outcome.item
    match outcome:
        case Embedded():
            writer.append(
                id=item.id,
                source=item.source,
                embedding=outcome.vector,
                width=outcome.width,
                height=outcome.height,
                sha256=outcome.sha256,
                attributes=item.attributes,
            )
            summary.embedded += 1
        case Failed():
            failures.add(outcome)
            summary.failed[outcome.code] += 1
            summary.needs_heif += containers.HEIF_HINT in outcome.message
        case Skipped():
            summary.skipped[NOT_AN_IMAGE] += 1


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
        if self._write is None:
            file = self._stack.enter_context(
                self._path.open("w", newline="", encoding="utf-8", errors="backslashreplace", buffering=1)
            )
            self._write = csv.writer(file).writerow
            self._write(["id", "source", "code", "message"])
        self._write(map(guard, (failed.item.id, failed.item.source, failed.code, failed.message)))

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def stream(
    found: Iterable[Item],
    encoder: Encoder,
    *,
    batch: int = BATCH,
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    reader: Reader | None = None,
) -> Generator[list[EmbedOutcome]]:
    """Embed images as they come, in their order, a batch at a time; memory stays constant.

    Arguments as for `embed`. Yields about `batch` outcomes at a time; each item has exactly one.
    """
    waiting: list[_Decoded | Failed | Skipped] = []
    ready = 0
    preprocessing = encoder.identity.preprocessing
    with closing(_decoded(found, preprocessing, WINDOW * batch, workers, limits, reader)) as results:
        for result in results:
            waiting.append(result)
            ready += isinstance(result, _Decoded)
            if ready == batch:
                yield _encoded(waiting, encoder)
                waiting, ready = [], 0
        if waiting:
            yield _encoded(waiting, encoder)


def _encoded(waiting: list[_Decoded | Failed | Skipped], encoder: Encoder) -> list[EmbedOutcome]:
    pictures = [w.picture.pixels for w in waiting if isinstance(w, _Decoded)]
    vectors = iter(_vectors(pictures, encoder))
    return [_outcome(w, next(vectors)) if isinstance(w, _Decoded) else w for w in waiting]


def _vectors(pictures: list[Pixels], encoder: Encoder) -> Sequence[Floats | EncoderError]:
    """Encode a batch; where it fails, one by one, so that a picture which does not encode fails alone."""
    if not pictures:
        return []
    try:
        return list(encoder.encode(np.stack(pictures)))
    except EncoderError as error:
        if len(pictures) == 1:
            return [error]
        return [vector for picture in pictures for vector in _vectors([picture], encoder)]


def _outcome(decoded: _Decoded, vector: Floats | EncoderError) -> EmbedOutcome:
    item, picture = decoded.item, decoded.picture
    if isinstance(vector, EncoderError):
        return Failed(item, "encode-failed", str(vector))
    return Embedded(item, vector, picture.width, picture.height, decoded.sha256)


def _decoded(
    found: Iterable[Item],
    preprocessing: Preprocessing,
    window: int,
    workers: int | None,
    limits: Limits,
    reader: Reader | None,
) -> Generator[_Decoded | Failed | Skipped]:
    """Read and decode ahead of the encoder, at most `window` images, in the items' order."""
    may_decode = threading.BoundedSemaphore(workers or available_cores())
    own_reader = reader or Reader()
    ahead: deque[Future[_Decoded | Failed | Skipped]] = deque()
    with own_reader, ThreadPoolExecutor(READERS, "imgclust-read") as pool:
        try:
            for item in found:
                ahead.append(pool.submit(_read, item, own_reader, preprocessing, limits, may_decode))
                if len(ahead) >= window:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(
    item: Item,
    reader: Reader,
    preprocessing: Preprocessing,
    limits: Limits,
    may_decode: threading.BoundedSemaphore,
) -> _Decoded | Failed | Skipped:
    if item.problem:
        return Failed(item, BAD_ROW, item.problem)
    try:
        data = reader.read(item, limits.max_bytes)
        with may_decode:
            picture = decode(data, preprocessing, limits)
        return _Decoded(item, picture, hashlib.sha256(data).hexdigest())
    except UnsupportedFormat as error:
        is_image = item.named or containers.HEIF_HINT in str(error)
        return Failed(item, error.code, str(error)) if is_image else Skipped(item)
    except ImageError as error:
        return Failed(item, error.code, str(error))
