"""`imgclust import`: embeddings that were made elsewhere → an embeddings folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli.options import Commands, add_command
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.exporting.vectors import Piece


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "import",
        run,
        "make an embeddings folder from embeddings that you made elsewhere",
        "  imgclust import rows.parquet -o embeddings/ --id photo --vector embedding --encoder-name acme-v1\n"
        "  imgclust import vectors.npy -o embeddings/ --ids names.txt --encoder-name acme-v1",
    )
    command.add_argument("file", type=Path, metavar="FILE", help=".parquet, or .npy of (rows, width)")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="EMBEDDINGS", help="the folder to create"
    )
    command.add_argument(
        "--encoder-name", required=True, metavar="NAME",
        help="the encoder's name; only embeddings with the same name and width can be compared",
    )  # fmt: skip
    command.add_argument("--id", metavar="COLUMN", help="column with the ids of the images (.parquet)")
    command.add_argument("--vector", metavar="COLUMN", help="column with the vectors (.parquet)")
    command.add_argument(
        "--source",
        metavar="COLUMN",
        help=("column with paths or URLs of the images (.parquet); other columns become attributes"),
    )
    command.add_argument(
        "--ids",
        type=Path,
        metavar="FILE",
        help=("file with one id per line, for .npy (default: row numbers from 0)"),
    )


def run(arguments: argparse.Namespace) -> int:
    from imgclust.exporting.vectors import import_vectors

    count = import_vectors(_pieces(arguments), arguments.output, arguments.encoder_name)
    print(f"{count} embeddings in {arguments.output}")
    return 0


def _pieces(arguments: argparse.Namespace) -> Iterator[Piece]:
    from imgclust.exporting.vectors import npy_pieces, parquet_pieces

    ending = arguments.file.suffix.lower()
    columns = (arguments.id, arguments.vector, arguments.source)
    if ending == ".npy":
        if any(column is not None for column in columns):
            raise ImgclustError(
                "a .npy file has no columns for --id, --vector and --source; --ids names rows"
            )
        return npy_pieces(arguments.file, arguments.ids)
    if ending != ".parquet":
        raise ImgclustError(f"{arguments.file.name!a} must end in .parquet or .npy")
    if arguments.id is None or arguments.vector is None or arguments.ids is not None:
        raise ImgclustError("a .parquet file needs --id COLUMN and --vector COLUMN; --ids is for .npy files")
    return parquet_pieces(arguments.file, arguments.id, arguments.vector, arguments.source)
