"""`imgclust compare`: what became of a model's clusters in another model, and which images move."""

from __future__ import annotations

import argparse
from pathlib import Path

from imgclust.cli.options import Commands, add_command, add_result_options
from imgclust.cli.output import result_format, write_result


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "compare",
        run,
        "say what became of each cluster of a model in another one, and which images move",
        "  imgclust compare model/ next/\n"
        "  imgclust compare model/ next/ --on embeddings/ -o changes.csv\n"
        "  imgclust compare model/ next/ --format json",
    )
    command.add_argument("before", type=Path, metavar="A", help="a model")
    command.add_argument("after", type=Path, metavar="B", help="another model of the same encoder")
    command.add_argument(
        "--on", type=Path, metavar="EMBEDDINGS",
        help="compare on this folder instead of the training images of both models",
    )  # fmt: skip
    add_result_options(command)


def run(arguments: argparse.Namespace) -> int:
    from imgclust.comparing import comparison_output
    from imgclust.comparing.compare import compare
    from imgclust.model.model import ClusterModel

    format = result_format(arguments)
    before, after = ClusterModel.load(arguments.before), ClusterModel.load(arguments.after)
    found = compare(before, after, arguments.on)
    write_result(found, comparison_output, format, arguments.output)
    return 0
