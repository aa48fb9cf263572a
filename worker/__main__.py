"""`imgclust-worker`: arguments → one call each.

This module is imported again by every fetcher process, so nothing heavy is imported at its top.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from worker.commands import arguments as operators

DESCRIPTION = """\
Tags uploads from Kafka with the cluster that their image shows.

Settings come from environment variables (WORKER_…) or from a TOML file; `imgclust-worker settings` lists
them. Try it without anything else installed: `imgclust-worker demo`."""

EXIT_CODES = """\
exit codes:
  0    everything in flight was finished, committed, and the group was left
  1    failed while running; what was not finished is done by the next worker
  2    a setting or an argument is wrong
  3    something is missing that the start needs (Kafka, a topic, the model, the encoder)
  4    a stage made no progress for WORKER_STALL_TIMEOUT; stderr says what each thread was doing
  130  a second SIGTERM or SIGINT: left at once"""


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        "imgclust-worker", description=DESCRIPTION, epilog=EXIT_CODES, formatter_class=raw
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="settings from a file; environment variables win over it",
    )

    run = commands.add_parser(
        "run",
        parents=[config],
        help="the service: tagger and Redis view",
        description="Read upload events, publish tags, and keep the Redis view.",
        epilog=EXIT_CODES,
        formatter_class=raw,
    )
    run.add_argument(
        "--no-view", action="store_true", help="only the tagger; run `imgclust-worker view` elsewhere"
    )

    view = commands.add_parser(
        "view",
        parents=[config],
        help="only the Redis view",
        description="Read the tags topic and keep the view of it in Redis.",
        epilog=EXIT_CODES,
        formatter_class=raw,
    )
    view.add_argument(
        "--rebuild", action="store_true", help="read the tags topic again from its start, then go on as usual"
    )
    commands.add_parser(
        "wall",
        parents=[config],
        help="a page to look at: clusters and their newest pictures",
        description="Serve a read-only page over what the view keeps in Redis, on WORKER_WALL.",
    )
    commands.add_parser(
        "check",
        parents=[config],
        help="what works, what does not, what to do",
        description="Look at settings, Kafka, topics, Redis, model and encoder; say what stands in the way.",
    )
    topics = commands.add_parser(
        "topics",
        parents=[config],
        help="make the four topics, or check those that are there",
        description="Make the topics that are missing, and say what about the four contradicts exactly-once "
        "delivery or the order of an id's events. Topics that are there are never changed.",
    )
    either = topics.add_mutually_exclusive_group(required=True)
    either.add_argument("--create", action="store_true", help="make what is missing, then check")
    either.add_argument("--check", action="store_true", help="only look; exit code 3 when a start is refused")
    topics.add_argument(
        "--replication", type=_replication, metavar="N",
        help="replicas of topics that are made (default: 3, or as many as there are brokers); "
        "WORKER_PARTITIONS says how many partitions they get",
    )  # fmt: skip
    operators.add_arguments(commands, config)
    commands.add_parser("settings", help="list every setting with its default and meaning")

    demo = commands.add_parser(
        "demo",
        help="all of it on this machine, with nothing else installed",
        description="Fit a model on 80 % of the images, stream the rest through the worker, show it live.",
    )
    demo.add_argument("images", nargs="*", type=Path, help="folders of pictures (default: examples/clipart)")
    demo.add_argument("--kafka", metavar="HOST:PORT", default=os.environ.get("KAFKA") or None,
                      help="a real broker instead of the embedded one (default: $KAFKA)")  # fmt: skip
    demo.add_argument(
        "--out", type=Path, default=Path("demo-run"), help="folder for model and report (%(default)s)"
    )
    demo.add_argument("--encoder", default="mini", help="the encoder to use (%(default)s)")
    demo.add_argument("--uploads", type=int, default=2000, help="how many uploads to stream (%(default)s)")
    return top


def _replication(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 32):
        raise argparse.ArgumentTypeError(f"must be a whole number between 1 and 32; got {text!r}")
    return int(text)


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
            from worker.settings.load import settings_text

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
        from worker.kafka.topics import check_properties

        check_properties(settings)
    if args.command == "check":
        from worker.commands.check import check

        return check(settings)
    if args.command == "topics":
        from worker.kafka.topics import command

        return command(settings, create=args.create, replicas=args.replication)
    if args.command in ("dlq", "explain", "embeddings", "retag", "models"):
        return operators.run(args, settings)
    if args.command == "wall":
        from worker.wall.app import wall

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
