"""Arguments that name images → rows with their clusters; what could not be read is printed."""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclust.cli import loading
from imgclust.cli.options import LIMIT_OPTIONS
from imgclust.cli.output import note

if TYPE_CHECKING:
    from imgclust.embedding.stream import Failed
    from imgclust.model.model import ClusterModel
    from imgclust.tagging.rows import Row

SHOWN_FAILURES = 5


class Failures:
    """Pictures that could not be read: prints the first few with their reasons, counts all."""

    def __init__(self) -> None:
        self._codes: Counter[str] = Counter()

    def __call__(self, failed: Failed) -> None:
        self._codes[failed.code] += 1
        if self._codes.total() <= SHOWN_FAILURES:
            note(f"{failed.item.source!a}: {failed.code}: {failed.message}")

    def print_summary(self) -> None:
        for code, count in self._codes.most_common():
            remedy = f"; {LIMIT_OPTIONS[code]} reads larger ones" if code in LIMIT_OPTIONS else ""
            note(f"{count} failed: {code}{remedy}")


def by_kind(images: Sequence[str]) -> tuple[list[Path], list[str]]:
    """What arguments name: embeddings folders, and all else."""
    from imgclust.embedding.store import shards

    stored = [name for name in images if Path(name).is_dir() and shards(Path(name))]
    return [Path(name) for name in stored], [name for name in images if name not in stored]


def predicted(
    arguments: argparse.Namespace,
    model: ClusterModel,
    failures: Failures,
    skipped: Counter[str],
    of_folder: Callable[[ClusterModel, Path], Iterator[Row]] | None = None,
) -> Iterator[Row]:
    """Rows of embeddings folders come from what is stored; all else is read and encoded.

    Args:
        arguments: with `images` and the options of encoders and reading.
        of_folder: an embeddings folder's rows, where they are not those that `predict` writes.
    """
    from imgclust.tagging import rows as predictions

    stored, others = by_kind(arguments.images)
    for folder in stored:
        yield from (of_folder or predictions.predict_embeddings)(model, folder)
    if not others:
        return
    encoder = loading.encoder_of(model, arguments)
    common: dict[str, Any] = {
        "on_failed": failures, "workers": arguments.workers, "limits": loading.limits(arguments),
        "reader": loading.reader(arguments),
    }  # fmt: skip
    if "-" in others:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # names of files are bytes
        yield from predictions.predict_lines(model, encoder, sys.stdin, **common)
        others.remove("-")
    if others:
        yield from predictions.predict_paths(model, encoder, others, skipped=skipped, **common)
