"""`imgclust predict --engine ray`: into a folder of Parquet parts; run again, it goes on where it was."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from imgclust.cli import loading
from imgclust.cli.output import note
from imgclust.cli.predicting import by_kind
from imgclust.errors import ImgclustError
from imgclust.types import EncoderIdentity


def run(arguments: argparse.Namespace) -> int:
    stored = _are_stored(arguments)
    from imgclust.engines.runs import predict_on_ray
    from imgclust.model.model import ClusterModel
    from imgclust.support.progress import bar_for

    model = ClusterModel.load(arguments.model)
    identity = None if stored else _encoder(model.encoder, arguments)
    options, workers = loading.on_ray(arguments, identity)
    skipped = Counter[str]()
    with bar_for("predict", lambda: _count(arguments.images, stored=stored)) as bar:
        parts = predict_on_ray(
            model, arguments.images, arguments.output, options, workers, skipped=skipped, advance=bar.advance
        )
    print(f"{parts.rows + parts.present} images predicted into {arguments.output}", file=sys.stderr)
    if parts.present:
        note(f"{parts.present} of them were there before")
    for code, count in parts.failed.most_common():
        note(f"{count} failed: {code}; see {arguments.output / 'failed.csv'}")
    if parts.rows or parts.present:
        return 0
    raise ImgclustError("no picture was predicted")


def _are_stored(arguments: argparse.Namespace) -> bool:
    """Whether the images are embeddings folders; refuses what no engine takes before any work."""
    placed = arguments.copy_to is not None or arguments.link_to is not None
    if arguments.output is None or arguments.output.suffix or placed:
        raise ImgclustError(
            "--engine ray writes a folder of Parquet files: name it with -o, without --copy-to and --link-to"
        )
    stored, others = by_kind(arguments.images)
    if "-" in arguments.images or (stored and others):
        raise ImgclustError(
            "--engine ray takes images, or embeddings folders, and not both; nothing of stdin"
        )
    return bool(stored)


def _count(images: Sequence[str], *, stored: bool) -> int:
    """How many there are."""
    from imgclust.embedding.store_columns import count_rows
    from imgclust.images.sources import items

    if not stored:
        return sum(1 for _ in items(images))
    return sum(count_rows(Path(folder)) for folder in images)


def _encoder(identity: EncoderIdentity | None, arguments: argparse.Namespace) -> EncoderIdentity:
    """The model's; loaded here to see that it can be had, before the cluster is asked for anything."""
    if identity is None:
        raise ImgclustError("the model does not name its encoder, so it predicts embeddings folders only")
    return loading.encoder(
        identity, device="cpu", precision=arguments.precision, weights=arguments.weights
    ).identity
