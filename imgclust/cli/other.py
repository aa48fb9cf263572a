"""`imgclust other`: why images are in no cluster, and what is among them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.options import Commands, add_command, add_result_options
from imgclust.cli.output import note, result_format, write_result

if TYPE_CHECKING:
    from imgclust.explaining.other import OtherImage


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "other",
        run,
        'explain why images are in "other" (novel, between clusters, or in a sparse region), which '
        "clusters are nearest, and what new clusters there might be",
        "  imgclust other model/\n"
        "  imgclust other model/ --on embeddings/ --page other.html\n"
        "  imgclust other model/ -o other.csv",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "--on", type=Path, metavar="EMBEDDINGS",
        help=("explain the images of this folder instead of the training images; the page then has "
              "pictures"),
    )  # fmt: skip
    command.add_argument("--page", type=Path, metavar="PAGE.html", help=("also write a page with pictures"))
    add_result_options(command)


def run(arguments: argparse.Namespace) -> int:
    from imgclust.explaining import other_output
    from imgclust.explaining.other import explain_other
    from imgclust.model.gallery import thumbnail_of
    from imgclust.model.model import ClusterModel

    format = result_format(arguments)
    model = ClusterModel.load(arguments.model)
    found = explain_other(model, arguments.on)
    if arguments.page is not None:

        def thumbnail(image: OtherImage) -> bytes | None:
            return model.thumbnails.get(image.id) or (thumbnail_of(image.source) if image.source else None)

        title = f"What is in “other” of model {model.version}"
        other_output.write_page(arguments.page, found, title, thumbnail)
        note(f"a page with pictures is in {arguments.page}")
        if arguments.on is None and found.images:
            note("a model keeps no pictures of these images: --on EMBEDDINGS finds them by their files")
    write_result(found, other_output, format, arguments.output)
    return 0
