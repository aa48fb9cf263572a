"""`imgclust compare`: what became of a model's clusters in another model, and which images move."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.options import Commands, add_command, add_result_options
from imgclust.cli.output import is_page, result_format, write_result

if TYPE_CHECKING:
    from imgclust.comparing.compare import Comparison


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "compare",
        run,
        "compare two models: what became of each cluster, and which images move",
        "  imgclust compare model/ next/\n"
        "  imgclust compare model/ next/ --on embeddings/ -o changes.csv\n"
        "  imgclust compare model/ next/ --format json\n"
        "  imgclust compare model/ next/ --on embeddings/ -o changes.html",
    )
    command.add_argument("before", type=Path, metavar="A", help="a model")
    command.add_argument("after", type=Path, metavar="B", help="another model with the same encoder")
    command.add_argument(
        "--on", type=Path, metavar="EMBEDDINGS",
        help="compare on the images of this folder instead of both models' training images",
    )  # fmt: skip
    add_result_options(command, page="side by side in pictures")


def run(arguments: argparse.Namespace) -> int:
    from imgclust.comparing import comparison_output
    from imgclust.comparing.compare import compare
    from imgclust.comparing.comparison_page import write_comparison
    from imgclust.embedding.store_columns import count_rows
    from imgclust.model.model import ClusterModel
    from imgclust.support.progress import bar_for

    as_page = is_page(arguments)
    format = None if as_page else result_format(arguments)
    before, after = ClusterModel.load(arguments.before), ClusterModel.load(arguments.after)
    with bar_for("compare", None if arguments.on is None else lambda: count_rows(arguments.on)) as bar:
        found = compare(before, after, arguments.on, bar.advance)
    if format is not None:
        write_result(found, comparison_output, format, arguments.output)
        return 0
    write_comparison(found, before, after, arguments.output, _pictures(found, arguments.on))
    print(f"written to {arguments.output}")
    return 0


def _pictures(found: Comparison, folder: Path | None) -> dict[str, bytes]:
    """Of the images that move, where an embeddings folder says which files they are."""
    from imgclust.model.gallery import thumbnail_of
    from imgclust.report.tiles import embedded_from

    if folder is None:
        return {}
    moved = {image.id for image in found.examples}
    made = ((image, thumbnail_of(source)) for image, source in embedded_from(folder, moved))
    return {image: picture for image, picture in made if picture}
