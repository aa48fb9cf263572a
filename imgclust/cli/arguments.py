"""`imgclust`: arguments → one call each. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import imgclust
from imgclust.errors import ImgclustError

DEBUG = "IMGCLUST_DEBUG"  # any value: show tracebacks
DEFAULT_ENCODER = "ViT-B-32/laion2b_s34b_b79k"

DESCRIPTION = """\
Groups images by what they show: embed them with CLIP, fit clusters, freeze the result into a model folder,
and say of any other image which cluster it belongs to."""

EXAMPLES = """\
from a folder of pictures to a page that shows its clusters:
  imgclust embed ~/Pictures -o embeddings/
  imgclust fit embeddings/ -o model/
  imgclust report model/ -o report.html

without a download, with the small built-in network:
  imgclust embed ~/Pictures -o embeddings/ --encoder mini

sort other pictures into one folder per cluster:
  imgclust predict model/ ~/Downloads --link-to sorted/

exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong arguments, 130 interrupted.
Set IMGCLUST_DEBUG=1 to see tracebacks."""

IMAGES = """\
folders (searched all the way down), files, http(s) and s3 URLs, or lists: a CSV, TSV or Parquet file with a
column source, file, path, filename, image or url, and perhaps id; its other columns become attributes"""

_Parsers = argparse._SubParsersAction  # argparse gives this type no public name


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        "imgclust",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"imgclust {imgclust.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_embed, _add_fit, _add_predict, _add_report, _add_names):
        add(commands)
    return top


def _command(
    commands: _Parsers[argparse.ArgumentParser], name: str, help: str, examples: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_embed(commands: _Parsers[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "embed",
        "turn images into embeddings (Parquet); run it again to resume or to add",
        "  imgclust embed photos/ -o embeddings/\n"
        "  imgclust embed photos.csv -o embeddings/ --encoder ViT-L-14/laion2b_s32b_b82k --device cuda\n"
        "  imgclust embed photos/ -o embeddings/ --encoder ViT-B-32@checkpoint.safetensors",
    )
    command.add_argument("images", nargs="+", metavar="IMAGES", help=IMAGES)
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="EMBEDDINGS", help="folder to write"
    )
    command.add_argument(
        "--encoder",
        default=DEFAULT_ENCODER,
        help="mini, an open_clip MODEL/PRETRAINED, or MODEL@CHECKPOINT (default: %(default)s)",
    )
    _add_encoder_options(command, precision="float32")
    command.add_argument(
        "--batch", type=_positive, default=64, help="images per call of the encoder (%(default)s)"
    )
    _add_reading_options(command)
    command.add_argument("--quiet", action="store_true", help="no progress")


def _add_fit(commands: _Parsers[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "fit",
        "find clusters in embeddings, check them on held-out images, and freeze them into a model folder",
        "  imgclust fit embeddings/ -o model/\n  imgclust fit embeddings/ -o model/ --min-cluster-size 40\n"
        "  imgclust fit embeddings-of-june/ -o june/ --previous may/",
    )
    command.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help="made by `imgclust embed`")
    command.add_argument("-o", "--output", required=True, type=Path, metavar="MODEL", help="folder to write")
    command.add_argument(
        "--previous", type=Path, metavar="MODEL",
        help="continue this model's taxonomy: clusters that it has too keep their numbers and names, others "
        "get numbers that were never used; give the model that was last at work",
    )  # fmt: skip
    scaled = "by default it grows with the number of images"
    command.add_argument("--n-neighbors", type=_positive, metavar="N", help=f"of UMAP; {scaled}")
    command.add_argument("--min-cluster-size", type=_positive, metavar="N", help=f"of HDBSCAN; {scaled}")
    command.add_argument("--min-samples", type=_positive, metavar="N", help=f"of HDBSCAN; {scaled}")
    command.add_argument(
        "--max-train", type=_positive, default=200_000, metavar="N",
        help="train on a sample of at most N images, predict the rest (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--test-fraction", type=float, default=0.2, metavar="SHARE", help="held out of training (%(default)s)"
    )
    command.add_argument(
        "--near", type=float, default=0.98, metavar="COSINE",
        help="images at least so alike count as one (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--novel-rate", type=float, default=0.001, metavar="SHARE",
        help="of images like those trained on, how many may be called novel; with few and varied images more "
        "finds more of what really is (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--duplicates", type=Path, metavar="FILE.csv",
        help="list there which images were left out as copies, and of which image",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="of the split (%(default)s)")
    command.add_argument(
        "--no-names", action="store_true", help="leave clusters without names (those of --previous are kept)"
    )
    command.add_argument(
        "--no-thumbnails", action="store_true", help="store no small pictures for the report"
    )
    _add_naming_options(command)
    command.add_argument("--quiet", action="store_true", help="no progress")


def _add_predict(commands: _Parsers[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "predict",
        "say which cluster each image belongs to",
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
        help=".csv, .jsonl or .parquet; without it, a table on a terminal and JSON lines elsewhere",
    )  # fmt: skip
    place = command.add_mutually_exclusive_group()
    place.add_argument("--copy-to", type=Path, metavar="DIR", help="copy each picture to DIR/<cluster>/")
    place.add_argument("--link-to", type=Path, metavar="DIR", help="link to each picture from DIR/<cluster>/")
    _add_encoder_options(command, precision=None)
    _add_reading_options(command)


def _add_report(commands: _Parsers[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "report",
        "write one HTML page that works offline: a map, the clusters with their pictures, the figures",
        "  imgclust report model/ -o report.html\n"
        "  imgclust report model/ -o report.html --tags embeddings/ --title 'My pictures'",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="REPORT.html", help="file to write"
    )
    command.add_argument(
        "--tags", type=Path, metavar="FILE",
        help="predictions or tags (CSV, JSON lines, Parquet): attributes to filter by, and drift against "
        "held-out images; or an embeddings folder, for the attributes",
    )  # fmt: skip
    command.add_argument("--title", help="heading of the page")


def _add_names(commands: _Parsers[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "names",
        "name the clusters of a model again, for example with your own words",
        "  imgclust names model/ --vocabulary words.txt\n"
        "  imgclust names model/ --vocabulary words.txt -o renamed/",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="made by `imgclust fit`")
    command.add_argument("-o", "--output", type=Path, metavar="MODEL", help="write here instead of in place")
    _add_naming_options(command)


def _add_naming_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--vocabulary", type=Path, metavar="FILE",
        help="your own words for names, one a line; needs an encoder with a text tower",
    )  # fmt: skip
    command.add_argument(
        "--weights", type=Path, metavar="FILE", help="the encoder's weights, where no hub is reached"
    )


def _add_encoder_options(command: argparse.ArgumentParser, *, precision: str | None) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    command.add_argument(
        "--precision", choices=("float32", "bf16", "fp16"), default=precision,
        help=f"of the encoder ({precision or 'as the model was fitted'})",
    )  # fmt: skip
    command.add_argument(
        "--weights", type=Path, metavar="FILE", help="the encoder's weights, where no hub is reached"
    )


def _add_reading_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=_positive, metavar="N", help="threads that decode (as many as cores)"
    )
    command.add_argument(
        "--allow-network", action="append", default=[], metavar="CIDR",
        help="fetch URLs from this network too, like 10.1.0.0/16; by default only from public addresses",
    )  # fmt: skip
    command.add_argument(
        "--allow-port", action="append", default=[], type=_positive, metavar="N",
        help="fetch URLs from this port too; by default only from 80 and 443",
    )  # fmt: skip
    command.add_argument(
        "--allow-bucket", action="append", default=[], metavar="NAME",
        help="read s3://NAME/… URLs, with the usual AWS_… variables; by default none (needs imgclust[s3])",
    )  # fmt: skip
    command.add_argument(
        "--proxy", metavar="URL",
        help="fetch URLs through this HTTP proxy; by default through none, whatever the environment says",
    )  # fmt: skip


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM leaves like an error does: what is complete is written first."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0, 1, or 130 after Ctrl-C; argparse itself exits with 2)."""
    arguments = parser().parse_args(argv)
    try:
        from imgclust.cli import commands

        with _terminable():
            run = commands.COMMANDS[arguments.command]
            return run(arguments)
    except KeyboardInterrupt:
        print("imgclust: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # whoever read our output has left; Python would complain again when it flushes stdout at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ImgclustError as error:
        if DEBUG in os.environ:
            raise
        print(f"imgclust: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if DEBUG in os.environ:
            raise
        text = " ".join(str(error).split())[:500]
        print(f"imgclust: {type(error).__name__}: {text} (set {DEBUG}=1 to see where)", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
