"""Pictures that an argument names → their embeddings, for commands that need few of them."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imgclust.cli import loading
from imgclust.cli.predicting import Failures, by_kind
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.embedding.stream import Embedded
    from imgclust.model.model import ClusterModel
    from imgclust.types import Floats

NUMBERS, TEXT = 12, 300  # bytes that are held of each number of an embedding, and of an id and a source


@dataclasses.dataclass(frozen=True, slots=True)
class Pictures:
    """n pictures: their ids, their files or URLs, and float32 (n, d) embeddings."""

    ids: list[str]
    sources: list[str]
    vectors: Floats


def embedded(images: Sequence[str], model: ClusterModel, arguments: argparse.Namespace) -> Pictures:
    """Of folders, files and embeddings folders; what cannot be read is printed.

    Args:
        arguments: with `device` and `weights`.

    Raises:
        ImgclustError: there is no picture that can be read.
        EmbeddingsError: an embeddings folder of another encoder.
    """
    import numpy as np

    from imgclust.embedding.store import iter_embeddings
    from imgclust.embedding.store_columns import check_memory, count_rows

    ids: list[str] = []
    sources: list[str] = []
    found: list[Floats] = []
    stored, others = by_kind(images)
    for folder in stored:
        check_memory(folder, count_rows(folder), TEXT, NUMBERS, "a few hundred pictures are enough")
        for shard in iter_embeddings(folder):
            model.check_encoder(shard.identity)
            ids += shard.ids
            sources += shard.sources
            found.append(shard.vectors)
    if others:
        done = _encoded(others, model, arguments)
        ids += [one.item.id for one in done]
        sources += [one.item.source for one in done]
        found += [one.vector[None] for one in done]
    if not ids:
        raise ImgclustError(f"there is no readable picture in {', '.join(map(ascii, images))[:300]}")
    return Pictures(ids, sources, np.concatenate(found))


def thumbnails(pictures: Pictures) -> dict[str, bytes]:
    """Id → WebP of up to as many pictures as a class keeps, those nearest to the middle of all first."""
    import numpy as np

    from imgclust.editing.classes import MAX_PICTURES
    from imgclust.model.gallery import thumbnail_of

    nearest = np.argsort(-(pictures.vectors @ pictures.vectors.mean(axis=0)), kind="stable")
    made = ((pictures.ids[row], thumbnail_of(pictures.sources[row])) for row in nearest.tolist())
    found = ((image, webp) for image, webp in made if webp is not None)
    return dict(itertools.islice(found, MAX_PICTURES))


def _encoded(images: Sequence[str], model: ClusterModel, arguments: argparse.Namespace) -> list[Embedded]:
    from imgclust.embedding.stream import Embedded, Failed, stream
    from imgclust.images.sources import items

    done: list[Embedded] = []
    failures = Failures()
    for outcomes in stream(items(images), loading.encoder_of(model, arguments)):
        for outcome in outcomes:
            if isinstance(outcome, Embedded):
                done.append(outcome)
            elif isinstance(outcome, Failed):
                failures(outcome)
    failures.print_summary()
    return done
