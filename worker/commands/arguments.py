"""The arguments of the operators' commands, `dlq`, `explain`, `embeddings`, `retag`, → one call each.

Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from worker.commands import arguments as operators
from worker.errors import ERROR_CODES

if TYPE_CHECKING:
    from worker.settings.settings import Settings

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

_Parsers = argparse._SubParsersAction  # argparse gives this type no public name

DLQ_EXAMPLES = """\
examples:
  imgclust-worker dlq list --counts
  imgclust-worker dlq list --code fetch-failed --newer-than 2h
  imgclust-worker dlq list --json | jq -r .message | sort | uniq -c
  imgclust-worker dlq replay --code fetch-failed --dry-run"""

REPLAY = """\
Send the uploads of dead letters to the uploads topic again, once what was wrong is mended.
A letter whose id has had a later event (a tag, a deletion, another letter, a pending retry, an event on its
way) is left out and listed: the last event of an id wins, and sent again the old one would be the last. So
doing the same twice sends nothing twice. Events without a readable id are sent only with --code bad-event."""


MODELS_EXAMPLES = """\
examples:
  imgclust-worker models                    what is live, what each worker runs
  imgclust-worker models shadow next        look at it beside the live one first
  imgclust-worker models set next           all workers change over, without a stop
  imgclust-worker models rollback           and back
  imgclust-worker models promote            feeds read the new taxonomy"""


def add_arguments(commands: _Parsers[argparse.ArgumentParser], config: argparse.ArgumentParser) -> None:
    """`dlq`, `explain`, `embeddings` and `retag`, each with the options of `config`."""
    _add_dlq(commands, config)
    _add_explain(commands, config)
    _add_embeddings(commands, config)
    _add_retag(commands, config)
    _add_models(commands, config)


def _add_models(commands: _Parsers[argparse.ArgumentParser], config: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    models = commands.add_parser(
        "models",
        parents=[config],
        help="which model is live, what each worker runs; change it while they run",
        description="Without an action: what is named live and shadow, which taxonomy feeds read, and what "
        "each worker runs.",
        epilog=MODELS_EXAMPLES,
        formatter_class=raw,
    )
    models.add_argument(
        "--json", action="store_true", default=None, help="JSON also on a terminal; elsewhere the default"
    )
    actions = models.add_subparsers(dest="action", metavar="ACTION")
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument(
        "--wait", type=duration, default=60.0, metavar="TIME",
        help="watch the workers change over for so long at most (60s; 0s: do not watch)",
    )  # fmt: skip
    chosen = actions.add_parser(
        "set",
        parents=[config, waiting],
        help="name the live model",
        description="Name the live model. It is loaded and tried here first; each worker then loads and "
        "warms it beside the one at work, and changes over between two batches.",
    )
    chosen.add_argument("folder", metavar="FOLDER", help="in WORKER_MODELS_FOLDER")
    shadow = actions.add_parser(
        "shadow",
        parents=[config],
        help="name a model that predicts beside the live one and publishes nothing",
        description="Name the shadow model: it predicts what the live one predicts, and the metrics compare "
        "them before anybody switches.",
    )
    either = shadow.add_mutually_exclusive_group(required=True)
    either.add_argument("folder", nargs="?", metavar="FOLDER", help="in WORKER_MODELS_FOLDER")
    either.add_argument("--off", action="store_true", help="no shadow model any more")
    actions.add_parser("rollback", parents=[config, waiting], help="back to the model before the live one")
    promote = actions.add_parser(
        "promote",
        parents=[config],
        help="have feeds read the live model's taxonomy",
        description="Point feeds at the live model's taxonomy, or at another one that Redis holds.",
    )
    promote.add_argument(
        "taxonomy",
        nargs="?",
        metavar="TAXONOMY",
        help="another one: the way back (default: the live model's)",
    )


def _add_embeddings(commands: _Parsers[argparse.ArgumentParser], config: argparse.ArgumentParser) -> None:
    embeddings = commands.add_parser("embeddings", help="what the embeddings topic keeps")
    actions = embeddings.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser(
        "export",
        parents=[config],
        help="write them as a folder that `imgclust fit` reads",
        description="Write the newest embedding of every upload that was not deleted to a folder that "
        "`imgclust fit` reads: train on what really came in.",
    )
    export.add_argument(
        "-o", "--output", required=True, type=Path, metavar="EMBEDDINGS", help="folder to make"
    )
    export.add_argument(
        "--newer-than", type=duration, metavar="AGE", help="only embeddings written within 90s, 15m, 2h, 7d"
    )


def _add_retag(commands: _Parsers[argparse.ArgumentParser], config: argparse.ArgumentParser) -> None:
    retag = commands.add_parser(
        "retag",
        parents=[config],
        help="tag everything again from the embeddings topic, into a topic of its own",
        description="Predict every kept embedding with a model and publish the tags to a topic of its own: "
        "nothing is fetched or encoded, and no GPU is needed. Begun again after a stop, it goes on where it "
        "was: each tag is published exactly once. It ends at the records that were there when it began.",
    )
    retag.add_argument("--to", required=True, metavar="TOPIC", help="where the tags go; made when missing")
    retag.add_argument(
        "--model", type=Path, metavar="MODEL", help="the model to tag with (default: the live one)"
    )
    retag.add_argument("--quiet", action="store_true", help="show no progress, only what was done at the end")


def _add_dlq(commands: _Parsers[argparse.ArgumentParser], config: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument(
        "--code", action="append", choices=ERROR_CODES, default=[], metavar="CODE",
        help=f"only these error codes (may be repeated): {', '.join(ERROR_CODES)}",
    )  # fmt: skip
    chosen.add_argument("--id", action="append", default=[], help="only this upload (may be repeated)")
    chosen.add_argument(
        "--partition", action="append", type=int, default=[], metavar="N",
        help="only this partition (may be repeated)",
    )  # fmt: skip
    chosen.add_argument(
        "--older-than", type=duration, metavar="AGE", help="written so long ago or longer: 90s, 15m, 2h, 7d"
    )
    chosen.add_argument("--newer-than", type=duration, metavar="AGE", help="written within this time")
    chosen.add_argument("--json", action="store_true", default=None,
                        help="JSON lines also on a terminal; elsewhere they are the default")  # fmt: skip

    dlq = commands.add_parser(
        "dlq",
        help="look at dead letters, send their uploads again",
        epilog=DLQ_EXAMPLES,
        formatter_class=raw,
    )
    actions = dlq.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "list",
        parents=[config, chosen],
        help="dead letters and how many there are of each kind",
        description="Show dead letters: a table of the newest on a terminal, all as JSON lines elsewhere.",
        epilog=DLQ_EXAMPLES,
        formatter_class=raw,
    )
    show.add_argument("--counts", action="store_true", help="only how many there are of each error code")
    show.add_argument("--limit", type=_positive, metavar="N", help="show the newest N")
    again = actions.add_parser(
        "replay",
        parents=[config, chosen],
        help="send their uploads again",
        description=REPLAY,
        epilog=DLQ_EXAMPLES,
        formatter_class=raw,
    )
    again.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    again.add_argument("--yes", action="store_true", help="do not ask before sending more than 20")


def _add_explain(commands: _Parsers[argparse.ArgumentParser], config: argparse.ArgumentParser) -> None:
    explain = commands.add_parser(
        "explain",
        parents=[config],
        help="where an upload is, and why",
        description="Tell what became of every event of an upload: tagged, deleted, dead, superseded, "
        "waiting, or pending another try, and whether Redis has it. Exit code 1 when no topic knows the id.",
    )
    explain.add_argument("id", metavar="ID", help="of the upload")
    explain.add_argument(
        "--since", type=duration, metavar="AGE",
        help="read only events so young (90s, 15m, 2h, 7d); by default all that the uploads topic has",
    )  # fmt: skip
    explain.add_argument(
        "--json", action="store_true", default=None, help="JSON also on a terminal; elsewhere the default"
    )


def duration(text: str) -> float:
    """`90s`, `15m`, `2h` or `7d` in seconds."""
    number, unit = text[:-1], text[-1:]
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(unit)
    if seconds is None or not number.isascii() or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write 90s, 15m, 2h or 7d")
    return float(int(number) * seconds)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """The command that the arguments name; returns the exit code."""
    try:
        return _run(args, settings)
    except BrokenPipeError:  # `… | head`: nobody wants the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(args: argparse.Namespace, settings: Settings) -> int:
    if args.command == "explain":
        from worker.commands.explain import explain

        return explain(settings, args.id, since=args.since, as_json=args.json)
    if args.command == "embeddings":
        from worker.commands.export import export

        return export(settings, args.output, newer_than=args.newer_than)
    if args.command == "retag":
        from worker.commands.retag import retag

        return retag(settings, args.to, model=args.model, quiet=args.quiet)
    if args.command == "models":
        return _models(args, settings)
    from worker.commands.dead_letters import Filter
    from worker.commands.dlq import list_letters
    from worker.commands.replay import replay

    chosen = Filter(
        frozenset(args.code), frozenset(args.id), frozenset(args.partition), args.older_than, args.newer_than
    )
    if args.action == "replay":
        return replay(settings, chosen, dry_run=args.dry_run, yes=args.yes, as_json=args.json)
    return list_letters(settings, chosen, counts=args.counts, limit=args.limit, as_json=args.json)


def _models(args: argparse.Namespace, settings: Settings) -> int:
    from worker.commands import models as models_command

    match args.action:
        case "set":
            return models_command.set_live(settings, args.folder, wait=args.wait)
        case "rollback":
            return models_command.roll_back(settings, wait=args.wait)
        case "shadow":
            return models_command.set_shadow(settings, None if args.off else args.folder)
        case "promote":
            return models_command.promote(settings, args.taxonomy)
        case _:
            return models_command.show(settings, as_json=args.json)


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
