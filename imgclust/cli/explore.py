"""`imgclust explore`: a model's map in embedding-atlas."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from imgclust.cli.options import Commands, add_command
from imgclust.cli.output import note

PROGRAM = "embedding-atlas"


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "explore",
        run,
        "explore millions of images on a map, with embedding-atlas",
        "  imgclust explore model/ --images embeddings/\n"
        "  imgclust explore model/ --images embeddings/ -o map.parquet --no-start",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "--images", type=Path, metavar="EMBEDDINGS",
        help="show all images of this folder, with pictures, instead of those on the model's map",
    )  # fmt: skip
    command.add_argument(
        "-o", "--output", type=Path, default=Path("explore.parquet"), metavar="FILE",
        help="Parquet file for embedding-atlas (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--no-start", action="store_true", help=("only write the file; do not start embedding-atlas")
    )


def run(arguments: argparse.Namespace) -> int:
    from imgclust.exporting.atlas import OPTIONS, write_atlas
    from imgclust.model.model import ClusterModel

    images = write_atlas(ClusterModel.load(arguments.model), arguments.output, arguments.images)
    print(f"{images:,} images in {arguments.output}", flush=True)
    command = [PROGRAM, str(arguments.output), *OPTIONS]
    program = _program()
    if program is None:
        note(f"{PROGRAM} is not installed: pip install 'imgclust[explore]', then run {shlex.join(command)}")
        return 0
    if arguments.no_start:
        print(shlex.join(command))
        return 0
    return subprocess.run([program, *command[1:]], check=False).returncode  # noqa: S603


def _program() -> str | None:
    """embedding-atlas beside this Python, or on the PATH."""
    beside = shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    return beside or shutil.which(PROGRAM)
