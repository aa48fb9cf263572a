"""`imgclust predict`: images → their clusters, as a table, a file, or folders of pictures."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.options import (
    IMAGES,
    Commands,
    add_command,
    add_encoder_options,
    add_engine_options,
    add_reading_options,
)
from imgclust.cli.output import note
from imgclust.cli.predicting import Failures, predicted
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.tagging.rows import Row


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "predict",
        run,
        "predict which cluster each image belongs to",
        "  imgclust predict model/ photo.jpg\n"
        "  imgclust predict model/ photos/ -o tags.csv\n"
        "  imgclust predict model/ embeddings/ -o tags.parquet\n"
        "  find . -name '*.jpg' | imgclust predict model/ - > tags.jsonl",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "images", nargs="+", metavar="IMAGES", help=f"{IMAGES}; an embeddings folder; or - for lines on stdin"
    )
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE",
        help="output file (.csv, .jsonl or .parquet), or a folder with --engine ray; default: a "
             "table on a terminal, otherwise JSON lines",
    )  # fmt: skip
    place = command.add_mutually_exclusive_group()
    place.add_argument("--copy-to", type=Path, metavar="DIR", help="copy each picture to DIR/<cluster>/")
    place.add_argument("--link-to", type=Path, metavar="DIR", help="link to each picture from DIR/<cluster>/")
    add_encoder_options(command, precision=None)
    add_reading_options(command)
    add_engine_options(command, "reads, encodes and predicts")


def run(arguments: argparse.Namespace) -> int:
    from imgclust.model.model import ClusterModel
    from imgclust.tagging import files, folders

    if arguments.engine == "ray":
        from imgclust.cli import predict_on_ray

        return predict_on_ray.run(arguments)
    if arguments.output is not None:
        files.writer_for(arguments.output)  # a wrong ending is refused before any work
    target = arguments.copy_to or arguments.link_to
    if target is not None:
        folders.check_outside(target, [i for i in arguments.images if i != "-"])
    model = ClusterModel.load(arguments.model)
    failures, skipped = Failures(), Counter[str]()
    rows = predicted(arguments, model, failures, skipped)
    counts = folders.Sorted()
    if target is not None:
        rows = (folders.copy_to if arguments.copy_to else folders.link_to)(rows, target, counts)
    written = _write(rows, arguments.output)
    failures.print_summary()
    if target is not None:
        note(f"{counts.placed} pictures placed in {target}, {counts.present} were there before")
        if counts.elsewhere:
            note(
                f"{counts.elsewhere} not placed, because they are not readable files here, "
                f"such as {counts.example[:200]!a}"
            )
    if written:
        return 0
    raise ImgclustError("no picture was predicted")


def _write(rows: Iterable[Row], path: Path | None) -> int:
    """To a file by its ending; a table on a terminal; JSON lines into a pipe. Returns the number of rows."""
    from imgclust.tagging import files, table

    if path is not None:
        tally = table.PredictionSummary()
        files.write_rows(tally.watch(rows), path)
        if tally.total:
            from rich.console import Console

            table.print_summary(tally, Console(stderr=True))
        return tally.total
    if sys.stdout.isatty():
        from rich.console import Console

        return table.print_table(rows, Console()).total
    import orjson

    written = 0
    for row in rows:
        sys.stdout.buffer.write(orjson.dumps(files.as_json(row), option=orjson.OPT_APPEND_NEWLINE))
        written += 1
    sys.stdout.buffer.flush()
    return written
