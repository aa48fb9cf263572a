"""`imgclust-worker`: arguments → one call; errors → exit codes.

Fetcher processes import this module again, so nothing heavy is imported at its top.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from worker.commands.arguments import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    top = parser()
    args = top.parse_args(arguments)
    if args.version:
        from imgclust import __version__

        print(f"imgclust-worker {__version__}")
        return 0
    if args.command is None:
        top.print_help()
        return 2
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from imgclust.errors import ImgclustError
    from worker.errors import SettingsError, StartError, WorkerError

    try:
        code: int = args.handler(args)
        return code
    except SettingsError as error:
        return _fail("wrong settings", error, 2)
    except (StartError, ImgclustError) as error:
        return _fail("cannot start", error, 3)
    except WorkerError as error:
        return _fail("stopped", error, 1)
    except KeyboardInterrupt:
        return 130


def _fail(what: str, error: Exception, code: int) -> int:
    lines = str(error).splitlines() or [type(error).__name__]
    print(f"imgclust-worker: {what}: {lines[0]}", file=sys.stderr)
    for line in lines[1:]:
        print(f"    {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
