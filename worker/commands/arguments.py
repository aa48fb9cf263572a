"""The arguments of `imgclust-worker`: every command, and the handler that each calls."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from worker.commands import handlers, operator_arguments
from worker.commands.operator_arguments import Commands

DESCRIPTION = """\
Tags uploads from Kafka with the cluster that their image belongs to.

Settings come from environment variables (WORKER_…) or from a TOML file; `imgclust-worker settings` lists
them. To try it without anything else installed, run `imgclust-worker demo`."""
EXIT_CODES = """\
exit codes:
  0    finished and committed everything in flight, and left the group
  1    failed while running; the next worker continues with what was not finished
  2    a setting or an argument is wrong
  3    something that the start needs is missing (a topic, a right, the model, the encoder), or a right was
       revoked; if the broker is down, `run` and `view` wait, but other commands exit
  4    a stage made no progress for WORKER_STALL_TIMEOUT; stderr shows what each thread was doing
  130  a second SIGTERM or SIGINT: exited at once"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "imgclust-worker",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="read settings from a file; environment variables override it",
    )
    _add_run(commands, config)
    _add_view(commands, config)
    _add_wall(commands, config)
    _add_serve(commands, config)
    _add_check(commands, config)
    _add_topics(commands, config)
    operator_arguments.add_arguments(commands, config)
    _add_settings(commands)
    _add_demo(commands)
    return top


def _add_run(commands: Commands, config: argparse.ArgumentParser) -> None:
    run = commands.add_parser(
        "run",
        parents=[config],
        help="run the service: tagger and Redis view",
        description="Read upload events, publish tags, and keep the Redis view.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.set_defaults(handler=handlers.run)
    run.add_argument(
        "--no-view", action="store_true", help=("run only the tagger; run `imgclust-worker view` elsewhere")
    )


def _add_view(commands: Commands, config: argparse.ArgumentParser) -> None:
    view = commands.add_parser(
        "view",
        parents=[config],
        help="run only the Redis view",
        description="Read the tags topic and keep Redis up to date.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    view.set_defaults(handler=handlers.view)
    view.add_argument(
        "--rebuild",
        action="store_true",
        help=("read the tags topic again from its start, then continue as usual"),
    )


def _add_wall(commands: Commands, config: argparse.ArgumentParser) -> None:
    wall = commands.add_parser(
        "wall",
        parents=[config],
        help="serve the wall, a page with the clusters and their newest pictures",
        description=(
            "Serve the wall on WORKER_WALL: a read-only page that shows what the view keeps in Redis."
        ),
    )
    wall.set_defaults(handler=handlers.wall)


def _add_serve(commands: Commands, config: argparse.ArgumentParser) -> None:
    serve = commands.add_parser(
        "serve",
        parents=[config],
        help="serve tags over HTTP: send a picture or its URL, get its tag",
        description="Serve tags over HTTP, on WORKER_SERVE: you send a picture or its URL and get "
        "the tag that the stream would publish. Needs the model and its encoder, and "
        "Kafka only if WORKER_MODELS_TOPIC is set.",
    )
    serve.set_defaults(handler=handlers.serve)


def _add_check(commands: Commands, config: argparse.ArgumentParser) -> None:
    check = commands.add_parser(
        "check",
        parents=[config],
        help="check the installation: what works, what does not, and what to do",
        description=(
            "Check settings, Kafka, topics, Redis, model and encoder, and report what keeps "
            "the worker from running."
        ),
    )
    check.set_defaults(handler=handlers.check)
    check.add_argument(
        "--event", nargs="?", const="", metavar="FILE",
        help="show what the worker reads from an event in FILE (- for standard input); without FILE, "
             "from the newest ten events of the uploads topic",
    )  # fmt: skip


def _add_topics(commands: Commands, config: argparse.ArgumentParser) -> None:
    topics = commands.add_parser(
        "topics",
        parents=[config],
        help="create or check the topics",
        description="Create missing topics, and report settings that break exactly-once delivery or "
        "the order of an id's events. Existing topics are never changed.",
    )
    topics.set_defaults(handler=handlers.topics)
    either = topics.add_mutually_exclusive_group(required=True)
    either.add_argument("--create", action="store_true", help="create missing topics, then check all")
    either.add_argument(
        "--check", action="store_true", help=("only check; exit code 3 if the worker would refuse to start")
    )
    topics.add_argument(
        "--replication", type=_replication, metavar="N",
        help="replicas of new topics (default: 3, or the number of brokers if there are fewer); "
             "WORKER_PARTITIONS sets their number of partitions",
    )  # fmt: skip


def _add_settings(commands: Commands) -> None:
    settings = commands.add_parser("settings", help="list every setting with its default and meaning")
    settings.set_defaults(handler=handlers.list_settings)
    settings.add_argument(
        "--format",
        choices=("text", "toml", "env", "json"),
        default="text",
        help="toml and env write a file to start from, for --config or as environment variables",
    )


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="try everything on this machine, with nothing else installed",
        description=(
            "Fit a model on 80 % of the images, stream the rest through the worker, and show it live."
        ),
    )
    demo.set_defaults(handler=handlers.demo)
    demo.add_argument("images", nargs="*", type=Path, help="folders of pictures (default: examples/clipart)")
    demo.add_argument("--kafka", metavar="HOST:PORT", default=os.environ.get("KAFKA") or None,
                      help="a real broker instead of the embedded one (default: $KAFKA)")  # fmt: skip
    demo.add_argument(
        "--out", type=Path, default=Path("demo-run"), help="folder for model and report (%(default)s)"
    )
    demo.add_argument("--encoder", default="mini", help="the encoder to use (%(default)s)")
    demo.add_argument("--uploads", type=int, default=2000, help="how many uploads to stream (%(default)s)")


def _replication(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 32):
        raise argparse.ArgumentTypeError(f"must be a whole number between 1 and 32; got {text!r}")
    return int(text)
