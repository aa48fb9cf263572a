"""Pictures that an argument names → their embeddings, for commands that need few of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imgclust.cli import loading
from imgclust.cli.predicting import Failures, by_kind
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.types import Floats


def embedded(
    images: Sequence[str], model: ClusterModel, arguments: argparse.Namespace
) -> tuple[list[str], Floats]:
    """Ids and float32 (n, d) embeddings of folders, files and embeddings folders; what cannot be read is
    printed.

    Args:
        arguments: with `device` and `weights`.

    Raises:
        ImgclustError: there is no picture that can be read.
        EmbeddingsError: an embeddings folder of another encoder.
    """
    import numpy as np

    from imgclust.embedding.store import iter_embeddings

    ids: list[str] = []
    found: list[Floats] = []
    stored, others = by_kind(images)
    for folder in stored:
        for shard in iter_embeddings(folder):
            model.check_encoder(shard.identity)
            ids += shard.ids
            found.append(shard.vectors)
    if others:
        names, rows = _encoded(others, model, arguments)
        ids += names
        found += rows
    if not ids:
        raise ImgclustError(f"there is no picture to be read in {', '.join(map(ascii, images))[:300]}")
    return ids, np.concatenate(found)


def _encoded(
    images: Sequence[str], model: ClusterModel, arguments: argparse.Namespace
) -> tuple[list[str], list[Floats]]:
    from imgclust.embedding.stream import Embedded, Failed, stream
    from imgclust.images.sources import items

    ids: list[str] = []
    rows: list[Floats] = []
    failures = Failures()
    for outcomes in stream(items(images), loading.encoder_of(model, arguments)):
        for outcome in outcomes:
            if isinstance(outcome, Embedded):
                ids.append(outcome.item.id)
                rows.append(outcome.vector[None])
            elif isinstance(outcome, Failed):
                failures(outcome)
    failures.print_summary()
    return ids, rows
