"""`imgclust`: arguments → one handler. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import imgclust
from imgclust.cli import (
    class_,
    clusters,
    compare,
    duplicates,
    edit,
    embed,
    evaluate,
    explore,
    export,
    fit,
    golden,
    import_,
    names,
    other,
    predict,
    report,
    search,
    tune,
)
from imgclust.errors import ImgclustError

DEBUG = "IMGCLUST_DEBUG"  # any value: show tracebacks

DESCRIPTION = """\
Groups images by what they show. Embed images with CLIP, find clusters, save them as a frozen model, and
predict the cluster of any other image."""

EXAMPLES = """\
from a folder of pictures to a page with its clusters:
  imgclust embed ~/Pictures -o embeddings/
  imgclust fit embeddings/ -o model/
  imgclust report model/ -o report.html

without a download, with the small built-in encoder:
  imgclust embed ~/Pictures -o embeddings/ --encoder mini

sort other pictures into one folder per cluster:
  imgclust predict model/ ~/Downloads --link-to sorted/

exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong arguments, 130 interrupted.
Set IMGCLUST_DEBUG=1 to see tracebacks."""


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
    known = (
        embed, fit, tune, predict, report, explore, clusters, other, edit, class_, golden, names, search,
        duplicates, compare, evaluate, export, import_,
    )  # fmt: skip
    for command in known:
        command.add(commands)
    return top


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
    if argv is None:  # not called by another program
        atexit.register(gc.freeze)  # else Python looks through all of torch once more, for 0.6 s
    arguments = parser().parse_args(argv)
    try:
        with _terminable():
            return int(arguments.handler(arguments))
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
