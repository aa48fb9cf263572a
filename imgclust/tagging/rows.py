"""Pictures → rows with the cluster that each belongs to.

Everything streams: a million pictures need no more memory than a batch. Rows are made by `predict_paths`,
`predict_lines` or `predict_embeddings`, may pass through `folders.copy_to` or `link_to`, and end in
`files.write_rows` or `table.print_table`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.images.sources import Item, from_lines, items
from imgclust.types import OTHER, Encoder, Floats

if TYPE_CHECKING:
    from imgclust.embedding.stream import EmbedOutcome, Failed
    from imgclust.images.decode import Limits
    from imgclust.images.reader import Reader
    from imgclust.model.model import ClusterModel

CHUNK = 1024  # embeddings predicted before the first of them is passed on


@dataclasses.dataclass(frozen=True, slots=True)
class Guess:
    """A likely cluster of one picture; `score` is its soft membership, 0..1."""

    cluster: int
    name: str | None
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A model's prediction for one picture; the fields mean what they mean in a tag.

    Attributes:
        id: as `imgclust embed` would name it: the path below the folder that was given.
        source: where the picture was read: a path, as the system names it, or a URL.
        cluster, name: its cluster; -1 and None are "other".
        probability: strength of the membership, 0..1; 0 for "other".
        novel: unlike anything the model was fitted on.
        similarity: cosine to the nearest training image; tags do not have it.
        candidates: at most three likely clusters, best first, also for "other".
        model, taxonomy: which model predicted it, and what its cluster numbers mean.
        attributes: the picture's, from a list or an embeddings folder.
        assigned: put into its cluster from between clusters; the probability is the candidate's score.
        from_class: the cluster is a class that people defined, decided before the clusters.
        group: the group that the cluster is in, where the model has two levels.
        width, height: of the original, in pixels; 0 where they are not known. Tables do not have them.
    """

    id: str
    source: str
    cluster: int
    name: str | None
    probability: float
    novel: bool
    candidates: tuple[Guess, ...]
    model: str
    taxonomy: str
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    similarity: float | None = None
    assigned: bool = False
    width: int = 0
    height: int = 0
    from_class: bool = False
    group: int | None = None


def predict_paths(
    model: ClusterModel,
    encoder: Encoder,
    sources: Iterable[str | Path],
    *,
    on_failed: Callable[[Failed], None] | None = None,
    skipped: Counter[str] | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    reader: Reader | None = None,
) -> Iterator[Row]:
    """Predict pictures as they are read, in their order, a batch at a time.

    Args:
        model: what predicts.
        encoder: the one whose embeddings the model takes.
        sources: folders, files, CSV/TSV/Parquet lists, http(s) URLs; see `imgclust.images.sources.items`.
        on_failed: called with each picture that could not be had; the others go on.
        skipped: counts by reason what a folder holds beside pictures.
        workers: processes that decode; by default as many as cores.
        limits: what one picture may cost.
        reader: how bytes are had; by default files, and URLs of public addresses.

    Raises:
        EmbeddingsError: the encoder is not the model's.
        ImgclustError: a source does not exist.
    """
    skipped = Counter() if skipped is None else skipped
    found = items(sources, skipped)
    return _predict_items(model, encoder, found, on_failed, skipped, workers, limits, reader)


def predict_lines(
    model: ClusterModel,
    encoder: Encoder,
    lines: Iterable[str],
    *,
    on_failed: Callable[[Failed], None] | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    reader: Reader | None = None,
) -> Iterator[Row]:
    """Predict a stream of paths and URLs, one a line; otherwise as `predict_paths`."""
    found = from_lines(lines)
    return _predict_items(model, encoder, found, on_failed, Counter(), workers, limits, reader)


def _predict_items(
    model: ClusterModel,
    encoder: Encoder,
    found: Iterable[Item],
    on_failed: Callable[[Failed], None] | None,
    skipped: Counter[str],
    workers: int | None,
    limits: Limits | None,
    reader: Reader | None,
) -> Iterator[Row]:
    """Check the encoder at once, not when the first picture is ready."""
    from imgclust.embedding.stream import stream
    from imgclust.images.decode import DEFAULT_LIMITS

    model.check_encoder(encoder.identity)
    batches = stream(found, encoder, workers=workers, limits=limits or DEFAULT_LIMITS, reader=reader)
    return _rows_of(model, batches, on_failed, skipped)


def _rows_of(
    model: ClusterModel,
    batches: Iterable[list[EmbedOutcome]],
    on_failed: Callable[[Failed], None] | None,
    skipped: Counter[str],
) -> Iterator[Row]:
    from imgclust.embedding.stream import NOT_AN_IMAGE, Embedded, Failed, Skipped

    for outcomes in batches:
        embedded = [o for o in outcomes if isinstance(o, Embedded)]
        for outcome in outcomes:
            if isinstance(outcome, Failed) and on_failed:
                on_failed(outcome)
            elif isinstance(outcome, Skipped):
                skipped[NOT_AN_IMAGE] += 1
        if embedded:
            yield from predict_rows(
                model,
                [o.item.id for o in embedded],
                [o.item.source for o in embedded],
                np.stack([o.vector for o in embedded]),
                [o.item.attributes for o in embedded],
                [(o.width, o.height) for o in embedded],
            )


def predict_rows(
    model: ClusterModel,
    ids: Sequence[str],
    sources: Sequence[str],
    embeddings: Floats,
    attributes: Sequence[Mapping[str, Any]],
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Iterator[Row]:
    """Predict one batch.

    Args:
        ids, sources, attributes: n each.
        embeddings: float (n, dim), unit-norm rows.
        sizes: n pairs of width and height, where they are known.

    Raises:
        EmbeddingsError: the embeddings are not ones that the model takes.
    """
    prediction = model.predict(embeddings)
    version, taxonomy = model.version, model.taxonomy
    groups = {cluster.id: cluster.group for cluster in model.clusters}
    classes = {cluster.id for cluster in model.clusters if cluster.is_class}
    for i, (image, source, known) in enumerate(zip(ids, sources, attributes, strict=True)):
        cluster = int(prediction.labels[i])
        likely = zip(prediction.candidates[i].tolist(), prediction.scores[i].tolist(), strict=True)
        yield Row(
            id=image,
            source=source,
            cluster=cluster,
            name=model.name(cluster),
            probability=float(prediction.probabilities[i]),
            novel=bool(prediction.novel[i]),
            candidates=tuple(Guess(c, model.name(c), s) for c, s in likely if c != OTHER),
            model=version,
            taxonomy=taxonomy,
            attributes=known,
            similarity=round(float(prediction.similarities[i]), 6),
            assigned=bool(prediction.assigned[i]),
            width=sizes[i][0] if sizes else 0,
            height=sizes[i][1] if sizes else 0,
            from_class=cluster in classes,
            group=groups.get(cluster),
        )


def predict_embeddings(model: ClusterModel, folder: Path) -> Iterator[Row]:
    """Predict an embeddings folder, shard by shard.

    Raises:
        EmbeddingsError: the folder is unreadable, or of another encoder than the model's.
    """
    from imgclust.embedding.store import iter_embeddings

    for shard in iter_embeddings(folder):
        model.check_encoder(shard.identity)
        for start in range(0, len(shard), CHUNK):
            part = slice(start, start + CHUNK)
            yield from predict_rows(
                model, shard.ids[part], shard.sources[part], shard.vectors[part], shard.attributes[part]
            )
