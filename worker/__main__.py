"""`imgclust-worker`: arguments → one call each.

This module is imported again by every fetcher process, so nothing heavy is imported at its top.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from worker.commands import arguments as operators
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
    return _dispatch(args)


def _dispatch(args: argparse.Namespace) -> int:
    from imgclust.errors import ImgclustError
    from worker.errors import SettingsError, StartError, WorkerError

    try:
        if args.command == "settings":
            from worker.settings.table import settings_text

            print(settings_text())
            return 0
        if args.command == "demo":
            from worker.demo.demo import demo

            return demo(
                args.images, kafka=args.kafka, out=args.out, encoder=args.encoder, uploads=args.uploads
            )
        return _service(args)
    except SettingsError as error:
        return _say("wrong settings", error, 2)
    except (StartError, ImgclustError) as error:
        return _say("cannot start", error, 3)
    except WorkerError as error:
        return _say("stopped", error, 1)
    except KeyboardInterrupt:
        return 130


def _service(args: argparse.Namespace) -> int:
    from worker.settings import load as all_settings
    from worker.telemetry import log as logs

    settings = all_settings.load(config=args.config)
    logs.configure(None if settings.log == "auto" else settings.log)
    if settings.kafka:
        from worker.wiring import check_properties

        check_properties(settings)
    if args.command == "check":
        from worker.commands.check import check

        return check(settings)
    if args.command == "topics":
        from worker.commands.topics import command

        return command(settings, create=args.create, replicas=args.replication)
    if args.command in ("dlq", "explain", "embeddings", "retag", "models"):
        return operators.run(args, settings)
    if args.command == "wall":
        from worker.commands.wall import wall

        return wall(settings)
    from worker.run import run, run_view

    view_only = args.command == "view"
    code = run_view(settings, rebuild=args.rebuild) if view_only else run(settings, view=not args.no_view)
    # Without the interpreter's farewell: it takes the Kafka clients down one after the other, each of which
    # may wait for a broker that is away, and all that matters is committed and left.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _say(what: str, error: Exception, code: int) -> int:
    lines = str(error).splitlines() or [type(error).__name__]
    print(f"imgclust-worker: {what}: {lines[0]}", file=sys.stderr)
    for line in lines[1:]:
        print(f"    {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
