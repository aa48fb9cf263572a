"""What `fit` was given, checked: rows of float16 values, and what is known of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.errors import FitError
from imgclust.images.perceptual import Hashes
from imgclust.model.folder import Array
from imgclust.model.gallery import thumbnail_of
from imgclust.model.parts import UNIT, check_identity
from imgclust.training.dedupe import Rows
from imgclust.types import EncoderIdentity, Floats

if TYPE_CHECKING:
    from imgclust.embedding.store import Embeddings

MAX_TRAIN = 200_000  # images that a fit is trained on, unless it is told otherwise


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """The input, checked.

    Attributes:
        rows: float32 (n, d), unit-norm, of float16 values.
        ids: n different names.
        digests: SHA-256 of each file.
        hashes: perceptual hashes; None: not known.
        sources: path or URL of each image.
        encoder: who made the rows.
    """

    rows: Floats
    ids: Sequence[str]
    digests: Sequence[str | None] | None
    sources: Sequence[str] | None
    encoder: EncoderIdentity | None
    hashes: Hashes | None = None

    @classmethod
    def of(
        cls,
        embeddings: Embeddings | Array | Path | str,
        ids: Sequence[str] | None,
        encoder: EncoderIdentity | None,
        *,
        normalize: bool = False,
        max_train: int = MAX_TRAIN,
        test_fraction: float = 0.0,
    ) -> Given:
        """See `imgclust.training.fit.fit`.

        Raises:
            FitError: what was given cannot be fitted; the text says what is wrong, and what to give instead.
        """
        check_identity(encoder)
        if isinstance(embeddings, Path | str):
            from imgclust.training.sample import read_sample

            embeddings = read_sample(Path(embeddings), max_train, test_fraction).embeddings
        vectors = getattr(embeddings, "vectors", None)
        if vectors is None:
            rows = _checked(_array(embeddings, normalize), normalize)
            names = [str(i) for i in (ids if ids is not None else range(len(rows)))]
            return cls(rows, _different(names, len(rows)), None, None, encoder)
        if ids is not None or encoder is not None:
            raise FitError("ids and encoder come with the embeddings: give them with an array only")
        known: Any = embeddings
        rows = _checked(vectors, normalize)
        return cls(
            rows, _different(known.ids, len(rows)), known.sha256, known.sources, known.identity, known.hashes
        )

    def taken(self, order: Rows) -> Given:
        """The same in another order."""
        places = order.tolist()

        def some(column: Sequence[Any] | None) -> list[Any] | None:
            return None if column is None else [column[row] for row in places]

        return dataclasses.replace(
            self,
            rows=self.rows[order],
            ids=[self.ids[row] for row in places],
            digests=some(self.digests),
            sources=some(self.sources),
            hashes=None if self.hashes is None else self.hashes[order],
        )

    def thumbnail(self, row: int) -> bytes | None:
        """WebP of a row's picture; None where its file is not to be had."""
        return thumbnail_of(self.sources[row]) if self.sources is not None else None


def _array(embeddings: Any, normalize: bool) -> Array:
    """Lists and tensors are arrays too."""
    try:
        rows = np.asarray(embeddings)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that needs its gradient
        raise FitError(f"embeddings must be floats (n, d): {error}") from None
    # whole numbers of an array are some other data, unless their length is said not to matter
    taken = normalize or not isinstance(embeddings, np.ndarray)
    return rows.astype(np.float32) if rows.dtype.kind in "iu" and taken else rows


def _checked(rows: Array, normalize: bool) -> Floats:
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise FitError(f"embeddings must be floats (n, d), are {rows.dtype} {rows.shape}")
    if normalize:
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = rows.astype(np.float16).astype(np.float32)
        lengths = np.linalg.norm(rounded, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < UNIT))
    if len(wrong):
        remedy = (
            "it has no direction" if normalize else "give normalize=True, or divide each row by its length"
        )
        raise FitError(
            f"embeddings must be finite and of length 1: row {wrong[0]} has length "
            f"{lengths[wrong[0]]:.4g}; {remedy}"
        )
    return rounded


def _different(ids: Sequence[str], n: int) -> Sequence[str]:
    if len(ids) != n:
        raise FitError(f"{len(ids)} ids for {n} embeddings")
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise FitError(f"the id {name[:200]!a} occurs twice: ids must be unique")
        seen.add(name)
    return ids
