"""The arguments of the operators' commands: `dlq`, `explain`, `embeddings`, `retag`, `models`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from worker.commands import handlers
from worker.errors import ERROR_CODES

# argparse gives this type no public name
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DLQ_EXAMPLES = """\
examples:
  imgclust-worker dlq list --counts
  imgclust-worker dlq list --code fetch-failed --newer-than 2h
  imgclust-worker dlq list --json | jq -r .message | sort | uniq -c
  imgclust-worker dlq replay --code fetch-failed --dry-run"""

REPLAY = """\
Send the uploads of dead letters to the uploads topic again, once what was wrong is fixed.
A dead letter whose id has had a later event (a tag, a deletion, another dead letter, a pending retry, an
event on its way) is left out and listed: the last event of an id wins, and sent again the old one would be
the last. So a second replay of the same dead letters sends nothing. Events without a readable id are sent
only with --code bad-event."""

RETAG = """\
Predict every kept embedding with a model and publish the tags to a topic of its own: nothing is fetched or
encoded, and no GPU is needed. It ends at the records that were there when the run began. The topic names the
run: whoever gives the same command, on this machine or on another, joins it, and the partitions are shared
out. Begun again after a stop, it goes on where it was: each tag is published exactly once. A topic takes the
tags of one model at a time."""

RETAG_EXAMPLES = """\
examples:
  imgclust-worker retag --to tags.next                     the live model
  imgclust-worker retag --to tags.next --processes 8       eight processes; as many partitions or more
  imgclust-worker retag --to tags.next --status            how far all of them are"""

MODELS_EXAMPLES = """\
examples:
  imgclust-worker models                    what is live, what each worker runs
  imgclust-worker models shadow next        look at it beside the live one first
  imgclust-worker models set next           all workers change over, without a stop
  imgclust-worker models rollback           and back
  imgclust-worker models promote            feeds read the new taxonomy"""


def add_arguments(commands: Commands, config: argparse.ArgumentParser) -> None:
    """Add the commands, each with the options of `config`."""
    _add_dlq(commands, config)
    _add_explain(commands, config)
    _add_embeddings(commands, config)
    _add_retag(commands, config)
    _add_models(commands, config)


def _add_dlq(commands: Commands, config: argparse.ArgumentParser) -> None:
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
    show.set_defaults(handler=handlers.list_dead_letters)
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
    again.set_defaults(handler=handlers.replay)
    again.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    again.add_argument("--yes", action="store_true", help="do not ask before sending more than 20")


def _add_explain(commands: Commands, config: argparse.ArgumentParser) -> None:
    explain = commands.add_parser(
        "explain",
        parents=[config],
        help="where an upload is, and why",
        description="Report what became of every event of an upload: tagged, deleted, dead, superseded, "
        "waiting, or pending another try, and whether Redis has it. Exit code 1 when no topic knows the id.",
    )
    explain.set_defaults(handler=handlers.explain)
    explain.add_argument("id", metavar="ID", help="of the upload")
    explain.add_argument(
        "--since", type=duration, metavar="AGE",
        help="read only events so young (90s, 15m, 2h, 7d); by default all that the uploads topic has",
    )  # fmt: skip
    explain.add_argument(
        "--json", action="store_true", default=None, help="JSON also on a terminal; elsewhere the default"
    )


def _add_embeddings(commands: Commands, config: argparse.ArgumentParser) -> None:
    embeddings = commands.add_parser("embeddings", help="what the embeddings topic keeps")
    actions = embeddings.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser(
        "export",
        parents=[config],
        help="write them as a folder that `imgclust fit` reads",
        description="Write the newest embedding of every upload that was not deleted to a folder that "
        "`imgclust fit` reads: train on what really came in.",
    )
    export.set_defaults(handler=handlers.export)
    export.add_argument(
        "-o", "--output", required=True, type=Path, metavar="EMBEDDINGS", help="folder to make"
    )
    export.add_argument(
        "--newer-than", type=duration, metavar="AGE", help="only embeddings written within 90s, 15m, 2h, 7d"
    )


def _add_retag(commands: Commands, config: argparse.ArgumentParser) -> None:
    retag = commands.add_parser(
        "retag",
        parents=[config],
        help="tag everything again from the embeddings topic, into a topic of its own",
        description=RETAG,
        epilog=RETAG_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    retag.set_defaults(handler=handlers.retag)
    retag.add_argument("--to", required=True, metavar="TOPIC", help="where the tags go; made when missing")
    retag.add_argument(
        "--model", type=Path, metavar="MODEL", help="the model to tag with (default: the live one)"
    )
    retag.add_argument(
        "--processes", type=_positive, default=1, metavar="N",
        help="processes of this machine that share the work, with its cores divided among them (default: 1)",
    )  # fmt: skip
    retag.add_argument(
        "--status", action="store_true", help="tag nothing; show how far the run is, wherever it goes on"
    )
    retag.add_argument("--quiet", action="store_true", help="show no progress, only what was done at the end")


def _add_models(commands: Commands, config: argparse.ArgumentParser) -> None:
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
    models.set_defaults(handler=handlers.show_models)
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
        description="Name the live model. It is loaded and tried here first, refused if it breaks its golden "
        "images, and compared with the live one on the kept embeddings of the last week. Each worker then "
        "loads and warms it beside the one at work, and changes over between two batches.",
    )
    chosen.set_defaults(handler=handlers.set_live)
    chosen.add_argument("folder", metavar="FOLDER", help="in WORKER_MODELS_FOLDER")
    chosen.add_argument(
        "--force",
        action="store_true",
        help="set it even if it breaks golden images",
    )
    chosen.add_argument(
        "--dry-run", action="store_true",
        help="check it and say how many tags of the last week would change, and change nothing",
    )  # fmt: skip
    shadow = actions.add_parser(
        "shadow",
        parents=[config],
        help="name a model that predicts beside the live one and publishes nothing",
        description="Name the shadow model: it predicts what the live one predicts, and the metrics compare "
        "them before anybody switches.",
    )
    shadow.set_defaults(handler=handlers.set_shadow)
    either = shadow.add_mutually_exclusive_group(required=True)
    either.add_argument("folder", nargs="?", metavar="FOLDER", help="in WORKER_MODELS_FOLDER")
    either.add_argument("--off", action="store_true", help="no shadow model any more")
    back = actions.add_parser(
        "rollback", parents=[config, waiting], help="back to the model before the live one"
    )
    back.set_defaults(handler=handlers.roll_back)
    promote = actions.add_parser(
        "promote",
        parents=[config],
        help="have feeds read the live model's taxonomy",
        description="Point feeds at the live model's taxonomy, or at another one that Redis holds.",
    )
    promote.set_defaults(handler=handlers.promote)
    promote.add_argument(
        "taxonomy",
        nargs="?",
        metavar="TAXONOMY",
        help="another one: the way back (default: the live model's)",
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
