"""What is like a text or a picture: neighbours in the space of the embeddings, not on the map.

Every row is compared: products with a million rows of 512 numbers take 0.2 s of one core, less than reading
them, so that an index pays for nobody who asks one question. Memory holds one shard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from imgclust.errors import EncoderError, ImgclustError
from imgclust.searching.rows import SearchRows, check_cluster, rows_of_folder, rows_of_model
from imgclust.types import EncoderIdentity, Floats

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

COUNT = 20
_SMALL_WORDS = frozenset(
    ["a", "an", "and", "at", "by", "for", "from", "in", "is", "it", "of", "on", "or", "the", "to", "with"]
)


class SearchEncoder(Protocol):
    """What turns a question into a vector: `imgclust.embedding.torch_encoder.TorchEncoder`."""

    @property
    def identity(self) -> EncoderIdentity: ...
    def encode(self, pixels: np.ndarray) -> Floats: ...
    def embed_texts(self, texts: list[str]) -> Floats: ...
    def vocabulary(self, phrases: list[str] | None = None) -> tuple[list[str], Floats]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """An image that a search found.

    Attributes:
        id, source: as in the embeddings folder; `source` is empty where it is not known.
        cosine: to the question, −1..1. Of a text, 0.2 to 0.35 is much.
        cluster, name: None without a model; cluster −1 is "other".
    """

    id: str
    source: str
    cosine: float
    cluster: int | None = None
    name: str | None = None


def search(
    query: Floats,
    *,
    model: ClusterModel | None = None,
    embeddings: Path | str | None = None,
    cluster: int | None = None,
    count: int = COUNT,
) -> list[Hit]:
    """The images nearest to a vector.

    ```python
    encoder = load_encoder(model.encoder.name)
    for hit in search(text_query(encoder, "a plate of food"), model=model):
        print(hit.cosine, hit.id, hit.name)
    ```

    Args:
        query: float (d,), of any length; see `text_query` and `picture_query`.
        model: whose training images are searched, and whose clusters are shown.
        embeddings: the folder to search instead of the model's training images.
        cluster: only images of this cluster; −1 is "other". In a folder, as the model predicts.
        count: images at most.

    Returns:
        The nearest first; images that are equally near by their id.

    Raises:
        ImgclustError: neither a model nor a folder, no such cluster, or a vector of another space.
    """
    if model is None and embeddings is None:
        raise ImgclustError("give a model, an embeddings folder, or both")
    if isinstance(query, str):
        raise ImgclustError(
            f"a search takes a vector, got the text {query!a:.60}: text_query(encoder, text) in "
            "imgclust.searching.search makes one"
        )
    if count < 1:
        raise ImgclustError(f"count must be at least 1, is {count}")
    if model is not None:
        check_cluster(model, cluster)
    blocks: Iterable[SearchRows]
    if embeddings is not None:
        blocks = rows_of_folder(Path(embeddings), model, cluster)
    else:
        assert model is not None
        rows = rows_of_model(model)
        assert rows.labels is not None
        blocks = [rows if cluster is None else rows.of(np.flatnonzero(rows.labels == cluster))]
    return _hits(nearest(blocks, query, count), model)


def nearest(blocks: Iterable[SearchRows], query: Floats, count: int) -> tuple[SearchRows, Floats] | None:
    """The rows of all blocks that are nearest to a vector, and their cosines; None: there are no rows."""
    best: tuple[SearchRows, Floats] | None = None
    for rows in blocks:
        if not len(rows):
            continue
        unit = _unit(query, rows.vectors.shape[1])
        cosines = np.clip(rows.vectors @ unit, -1, 1)  # float16 rows are a little longer than 1
        keep = np.argpartition(-cosines, min(count, len(rows)) - 1)[:count]
        found = rows.of(keep), cosines[keep]
        best = found if best is None else _joined(best, found)
        order = np.lexsort((np.array(best[0].ids), -best[1]))[:count]
        best = best[0].of(order), best[1][order]
    return best


def _joined(one: tuple[SearchRows, Floats], other: tuple[SearchRows, Floats]) -> tuple[SearchRows, Floats]:
    a, b = one[0], other[0]
    labels = None if a.labels is None or b.labels is None else np.concatenate([a.labels, b.labels])
    rows = SearchRows(
        [*a.ids, *b.ids], [*a.sources, *b.sources], np.concatenate([a.vectors, b.vectors]), labels
    )
    return rows, np.concatenate([one[1], other[1]])


def _unit(query: Floats, dim: int) -> Floats:
    given = np.asarray(query)
    if given.dtype.kind not in "fiu":
        raise ImgclustError(
            f"a search takes a vector of {dim} finite numbers, got {given.dtype} {given.shape}"
        )
    vector = given.astype(np.float32).ravel()
    length = float(np.linalg.norm(vector))
    if vector.shape != (dim,) or not 0 < length < np.inf:
        raise ImgclustError(
            f"a search takes a vector of {dim} finite numbers, got {vector.shape} of length {length:g}"
        )
    return vector / np.float32(length)


def _hits(found: tuple[SearchRows, Floats] | None, model: ClusterModel | None) -> list[Hit]:
    if found is None:
        return []
    rows, cosines = found
    labels = rows.labels
    if labels is None and model is not None:
        labels = model.predict(rows.vectors).labels
    clusters: list[int | None] = [None] * len(rows) if labels is None else [int(label) for label in labels]
    names: dict[int | None, str | None] = {c.id: c.name for c in model.clusters} if model else {}
    return [
        Hit(id_, source, round(float(cosine), 4), cluster, names.get(cluster))
        for id_, source, cosine, cluster in zip(rows.ids, rows.sources, cosines, clusters, strict=True)
    ]


def text_query(encoder: SearchEncoder, text: str) -> Floats:
    """float32 (d,): where a text lies among the images.

    An encoder without a text tower (`mini`) knows the names of its classes: those that share a word with the
    text stand for it.

    Raises:
        EncoderError: there is no text tower, and no class has such a name; some are listed.
    """
    if not text.strip():
        raise ImgclustError("the text to search for is empty")
    try:
        return np.asarray(encoder.embed_texts([text])[0], np.float32)
    except EncoderError:
        names, vectors = encoder.vocabulary()
    wanted = _words(text)
    shared = np.array([len(wanted & _words(name)) for name in names])
    if not shared.any():
        some = ", ".join(names[:: max(1, len(names) // 8)][:8])
        raise EncoderError(
            f"the encoder {encoder.identity.name!r} cannot read texts; it knows {len(names)} names, like "
            f"{some}, and none with a word of {text!a:.80}: search with --like PICTURE, or use a CLIP encoder"
        )
    return np.asarray(vectors[shared == shared.max()].mean(axis=0), np.float32)


def _words(text: str) -> set[str]:
    words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
    return {word.removesuffix("s") for word in words} - _SMALL_WORDS


def picture_query(encoder: SearchEncoder, picture: Path) -> Floats:
    """float32 (d,): where a picture lies among the images.

    Raises:
        ImageError: it cannot be read.
    """
    from imgclust.images.decode import DEFAULT_LIMITS, decode
    from imgclust.images.reader import Reader
    from imgclust.images.sources import Item

    with Reader() as reader:
        data = reader.read(Item(picture.name, str(picture)), DEFAULT_LIMITS.max_bytes)
    pixels = decode(data, encoder.identity.preprocessing).pixels
    return np.asarray(encoder.encode(pixels[None])[0], np.float32)
