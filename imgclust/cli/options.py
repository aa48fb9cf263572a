"""Arguments that several commands share. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

IMAGES = """\
folders (with all subfolders), files, http(s) and s3 URLs, or lists. A list is a CSV, TSV or Parquet file with
a column source, file, path, filename, image or url, and optionally id; other columns become attributes"""

# error code → the option that lifts its limit
LIMIT_OPTIONS = {"too-many-pixels": "--max-pixels", "too-large": "--max-bytes"}

PAGE_ENDING = ".html"
RESULT_ENDINGS = {".txt": "table", ".csv": "csv", ".json": "json"}

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # it has no public name


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], help: str, examples: str
) -> argparse.ArgumentParser:
    """A command whose arguments name what runs it: `arguments.handler(arguments)`."""
    command = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(handler=run)
    return command


def add_naming_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--vocabulary", type=Path, metavar="FILE",
        help="your own words for names, one per line; needs an encoder that can read text",
    )  # fmt: skip
    _add_weights_option(command)


def add_encoder_options(command: argparse.ArgumentParser, *, precision: str | None) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    command.add_argument(
        "--precision", choices=("float32", "bf16", "fp16"), default=precision,
        help=f"precision of the encoder ({precision or 'as the model was fitted'})",
    )  # fmt: skip
    _add_weights_option(command)


def add_device_options(command: argparse.ArgumentParser) -> None:
    """As `add_encoder_options`, with the precision that the model was fitted with."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    _add_weights_option(command)
    command.set_defaults(precision=None)


def _add_weights_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--weights", type=Path, metavar="FILE", help="the encoder's weights, if they cannot be downloaded"
    )


def add_output_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o", "--output", type=Path, metavar="MODEL", help="write the changed model here, instead of in place"
    )


def add_saving_options(command: argparse.ArgumentParser) -> None:
    """Where an edited model goes, and who edits it."""
    add_output_option(command)
    command.add_argument("--who", metavar="NAME", help=("the author of the edit (default: your user name)"))


def add_reading_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=positive, metavar="N", help="processes that decode (default: the number of cores)"
    )
    command.add_argument(
        "--max-pixels", type=positive, metavar="N",
        help=("largest image, as width × height (50000000); decoding takes 4 to 20 bytes of memory "
              "per pixel"),
    )  # fmt: skip
    command.add_argument(
        "--max-bytes", type=positive, metavar="N",
        help="largest image file (67108864), or largest download (20971520)",
    )  # fmt: skip
    command.add_argument(
        "--allow-network", action="append", default=[], metavar="CIDR",
        help=("also fetch URLs from this network, such as 10.1.0.0/16; by default only public "
              "addresses are allowed"),
    )  # fmt: skip
    command.add_argument(
        "--allow-port", action="append", default=[], type=positive, metavar="N",
        help="also fetch URLs from this port; by default only 80 and 443 are allowed",
    )  # fmt: skip
    command.add_argument(
        "--allow-bucket", action="append", default=[], metavar="NAME",
        help=("allow s3://NAME/… URLs, with the usual AWS_… variables; by default none are (needs "
              "imgclust[s3])"),
    )  # fmt: skip
    command.add_argument(
        "--proxy", metavar="URL",
        help="fetch URLs through this HTTP proxy; proxies in the environment are ignored",
    )  # fmt: skip


def add_engine_options(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "--engine", choices=("alone", "ray"), default="alone",
        help=f"what {what}: this process (alone), or ray: the Ray cluster in RAY_ADDRESS, or else Ray on "
        "this machine (needs imgclust[ray]) (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--engine-workers", type=positive, default=2, metavar="N", help=("number of Ray actors (%(default)s)")
    )
    command.add_argument(
        "--engine-gpus", type=float, default=0.0, metavar="SHARE",
        help="GPUs per encoding actor, such as 1 or 0.5 (%(default)s)",
    )  # fmt: skip


def add_result_options(command: argparse.ArgumentParser, page: str | None = None) -> None:
    """Where a result goes, and in which form; `page` says what a page shows, where there is one."""
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write to .csv, .json or .txt, instead of the terminal"
        + (f"; or {page}: {PAGE_ENDING}" if page else ""),
    )
    command.add_argument(
        "--format", choices=tuple(RESULT_ENDINGS.values()),
        help="output format (default: by the file's ending; without a file, a table)",
    )  # fmt: skip


def count_range(text: str) -> tuple[int, int]:
    """`10..30`, or a number, which stands for itself alone."""
    least, dots, most = text.partition("..")
    try:
        return positive(least), positive(most if dots else least)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number or two like 10..30, got {text!a:.60}") from None


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def megabytes(text: str) -> int:
    """Millions of bytes → bytes."""
    value = float(text)
    if not 0 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"must be 0 to 10000, got {text}")
    return int(value * 1_000_000)
