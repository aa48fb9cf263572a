"""Images → outcomes, as a stream: read in threads, decode in processes, encode in batches.

A codec that crashes or hangs costs its image: it has no part of this process. A device that goes on
by itself gets a batch while it encodes the last one. At no time is more held than a window of decoded images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np

from imgclust.embedding.encode_ahead import EncodeAhead
from imgclust.errors import EncoderError, ImageError, UnsupportedFormat
from imgclust.images import containers
from imgclust.images.decode import DEFAULT_LIMITS, Decoded, Limits
from imgclust.images.decoder_pool import DecoderPool
from imgclust.images.reader import Reader
from imgclust.images.sources import Item
from imgclust.support.machine import available_cores
from imgclust.types import Encoder, Floats, Pixels, StreamingEncoder

BATCH = 64
READERS = 32  # threads that read or fetch; only as many as there are cores decode at once
WINDOW = 4  # batches of decoded images that may wait for the encoder
SKIPPABLE = 16  # batches of items without a picture that may wait for one with
NOT_AN_IMAGE = "not an image"
BAD_ROW = "bad-row"

IsPresent = Callable[[Item, str], bool]


@dataclasses.dataclass(frozen=True, slots=True)
class Embedded:
    """An image in the encoder's space.

    Attributes:
        vector: float32 (dim,).
        sha256: hex, of the file's bytes.
        phash: of the whole picture, where it was asked for; see `imgclust.images.perceptual`.
    """

    item: Item
    vector: Floats
    width: int
    height: int
    sha256: str
    phash: int | None = None


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


@dataclasses.dataclass(frozen=True, slots=True)
class Present:
    """An image whose bytes are known already."""

    item: Item


EmbedOutcome = Embedded | Failed | Skipped | Present
Unread = Failed | Skipped | Present


@dataclasses.dataclass(frozen=True, slots=True)
class _Decoded:
    item: Item
    picture: Decoded
    sha256: str


def stream(
    found: Iterable[Item],
    encoder: Encoder,
    *,
    batch: int = BATCH,
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    reader: Reader | None = None,
    is_present: IsPresent | None = None,
    hashed: bool = False,
    decoder: Callable[[bytes], Decoded] | None = None,
) -> Generator[list[EmbedOutcome]]:
    """Embed images as they come, in their order, a batch at a time; memory stays constant.

    Yields about `batch` outcomes at a time; each item has exactly one.

    Args:
        found: the images.
        batch: images per call of the encoder.
        workers: images that are decoded at once; by default as many as cores.
        limits: what one image may cost.
        reader: how bytes are had; by default files, and URLs of public addresses.
        hashed: compute perceptual hashes, too.
        is_present: (item, SHA-256 of its bytes) → whether it need not be decoded; called in threads.
        decoder: decodes, by the same preprocessing and limits; called in threads. By default a pool of
            processes for this stream alone.

    Raises:
        ImgclustError: a process that decodes does not start.
    """
    with contextlib.ExitStack() as stack:
        own_reader = stack.enter_context(reader or Reader())
        decoders = workers or available_cores()
        if decoder is None:
            pool = DecoderPool(decoders, encoder.identity.preprocessing, limits, hashed=hashed)
            decoder = stack.enter_context(pool).decode
        read = _Read(own_reader, decoder, limits, decoders, is_present)
        batches = _batches(stack.enter_context(closing(_ahead(found, read, WINDOW * batch))), batch)
        if isinstance(encoder, StreamingEncoder):
            yield from _overlapping(batches, encoder)
        else:
            yield from (_encoded(waiting, encoder) for waiting in batches)


def _batches(results: Iterable[_Decoded | Unread], batch: int) -> Iterator[list[_Decoded | Unread]]:
    waiting: list[_Decoded | Unread] = []
    ready = 0
    for result in results:
        waiting.append(result)
        ready += isinstance(result, _Decoded)
        if ready == batch or len(waiting) == SKIPPABLE * batch:
            yield waiting
            waiting, ready = [], 0
    if waiting:
        yield waiting


class _Batch:
    """Pictures on their way through the encoder, and what came with them."""

    def __init__(self, waiting: list[_Decoded | Unread]) -> None:
        self._waiting = waiting
        self.pictures: list[_Picture] = [
            (
                self,
                i,
                np.require(w.picture.pixels, requirements=["C", "W"]),
            )  # as torch takes it, and held here
            for i, w in enumerate(waiting)
            if isinstance(w, _Decoded)
        ]
        self.vectors: dict[int, Floats | EncoderError] = {}  # by place

    @property
    def done(self) -> bool:
        return len(self.vectors) == len(self.pictures)

    def outcomes(self) -> list[EmbedOutcome]:
        return [
            _outcome(w, self.vectors[i]) if isinstance(w, _Decoded) else w
            for i, w in enumerate(self._waiting)
        ]


_Picture = tuple[_Batch, int, Pixels]


def _overlapping(
    batches: Iterable[list[_Decoded | Unread]], encoder: StreamingEncoder
) -> Generator[list[EmbedOutcome]]:
    """A batch is given to the device before the rows of the last one are waited for."""

    def keep(pictures: list[_Picture], vectors: Iterable[Floats | EncoderError]) -> None:
        for (batch, place, _), vector in zip(pictures, vectors, strict=True):
            batch.vectors[place] = vector

    ahead = EncodeAhead[_Picture](
        encoder,
        picture=lambda picture: picture[2],
        encoded=lambda pictures, rows, _: keep(pictures, rows),
        alone=lambda pictures: keep(pictures, _vectors([pixels for _, _, pixels in pictures], encoder)),
    )
    pending: deque[_Batch] = deque()
    try:
        for waiting in batches:
            pending.append(_Batch(waiting))
            ahead.add(pending[-1].pictures)
            while pending and pending[0].done:
                yield pending.popleft().outcomes()
        ahead.finish()
        yield from (batch.outcomes() for batch in pending)
    finally:
        while encoder.under_way:  # nobody waits for it any more
            with contextlib.suppress(Exception):
                encoder.take()


def _encoded(waiting: list[_Decoded | Unread], encoder: Encoder) -> list[EmbedOutcome]:
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
    return Embedded(item, vector, picture.width, picture.height, decoded.sha256, picture.hash)


def _ahead(found: Iterable[Item], read: _Read, window: int) -> Generator[_Decoded | Unread]:
    """Read and decode ahead of the encoder, at most `window` images, in the items' order."""
    ahead: deque[Future[_Decoded | Unread]] = deque()
    with ThreadPoolExecutor(READERS, "imgclust-read") as pool:
        try:
            for item in found:
                ahead.append(pool.submit(read, item))
                if len(ahead) >= window:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Read:
    """Item → pixels, in any thread."""

    def __init__(
        self,
        reader: Reader,
        decoder: Callable[[bytes], Decoded],
        limits: Limits,
        decoders: int,
        is_present: IsPresent | None,
    ) -> None:
        self._reader, self._decode, self._limits = reader, decoder, limits
        self._is_present = is_present
        self._may_decode = threading.BoundedSemaphore(decoders)

    def __call__(self, item: Item) -> _Decoded | Unread:
        if item.problem:
            return Failed(item, BAD_ROW, item.problem)
        try:
            data = self._reader.read(item, self._limits.max_bytes)
            sha256 = hashlib.sha256(data).hexdigest()
            if self._is_present is not None and self._is_present(item, sha256):
                return Present(item)
            with self._may_decode:
                picture = self._decode(data)
            return _Decoded(item, picture, sha256)
        except UnsupportedFormat as error:
            is_image = item.named or containers.HEIF_HINT in str(error)
            return Failed(item, error.code, str(error)) if is_image else Skipped(item)
        except ImageError as error:
            return Failed(item, error.code, str(error))
