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
Send the uploads of dead letters to the uploads topic again, after you have fixed the cause. If the id of a
dead letter has a later event (a tag, a deletion, another dead letter, a pending retry, an event on its way),
the dead letter is left out and listed, because otherwise the old event would become the last one and win. So
a second replay of the same dead letters sends nothing. Events without a readable id are sent only with
--code bad-event."""

RETAG = """\
Predict every kept embedding with a model, and publish the tags to a separate topic. Nothing is fetched or
encoded, and no GPU is needed. The run ends at the records that existed when it began. The topic identifies
the run: to share the work, give the same command again, on this machine or another. If you stop it and start
it again, it continues where it stopped, and each tag is published exactly once. A topic takes the tags of
one model at a time."""

RETAG_EXAMPLES = """\
examples:
  imgclust-worker retag --to tags.next                     with the live model
  imgclust-worker retag --to tags.next --processes 8       in eight processes; needs eight partitions or more
  imgclust-worker retag --to tags.next --status            the progress of all of them"""

MODELS_EXAMPLES = """\
examples:
  imgclust-worker models                    what is live, and what each worker runs
  imgclust-worker models shadow next        try it next to the live model first
  imgclust-worker models set next           switch all workers, without downtime
  imgclust-worker models rollback           switch back
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
        "--older-than",
        type=duration,
        metavar="AGE",
        help=("only those written at least this long ago: 90s, 15m, 2h, 7d"),
    )
    chosen.add_argument(
        "--newer-than", type=duration, metavar="AGE", help=("only those written within this time")
    )
    chosen.add_argument("--json", action="store_true", default=None,
                        help="print JSON lines, also on a terminal (default elsewhere)")  # fmt: skip

    dlq = commands.add_parser(
        "dlq",
        help="list dead letters, or send their uploads again",
        epilog=DLQ_EXAMPLES,
        formatter_class=raw,
    )
    actions = dlq.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "list",
        parents=[config, chosen],
        help="list dead letters, or count them by error code",
        description=("List dead letters: on a terminal a table of the newest, otherwise all as JSON lines."),
        epilog=DLQ_EXAMPLES,
        formatter_class=raw,
    )
    show.set_defaults(handler=handlers.list_dead_letters)
    show.add_argument("--counts", action="store_true", help="only count them by error code")
    show.add_argument("--limit", type=_positive, metavar="N", help="list only the newest N")
    again = actions.add_parser(
        "replay",
        parents=[config, chosen],
        help="send the uploads of dead letters again",
        description=REPLAY,
        epilog=DLQ_EXAMPLES,
        formatter_class=raw,
    )
    again.set_defaults(handler=handlers.replay)
    again.add_argument("--dry-run", action="store_true", help=("show what would be sent, but send nothing"))
    again.add_argument("--yes", action="store_true", help="do not ask before sending more than 20")


def _add_explain(commands: Commands, config: argparse.ArgumentParser) -> None:
    explain = commands.add_parser(
        "explain",
        parents=[config],
        help="show what became of an upload, and why",
        description="Show what became of every event of an upload (tagged, deleted, dead, "
        "superseded, waiting, or pending a retry), and whether Redis has it. Exit code 1 "
        "if no topic has the id.",
    )
    explain.set_defaults(handler=handlers.explain)
    explain.add_argument("id", metavar="ID", help="the upload's id")
    explain.add_argument(
        "--since", type=duration, metavar="AGE",
        help=("only read events that are at most this old (90s, 15m, 2h, 7d); default: all in the "
              "uploads topic"),
    )  # fmt: skip
    explain.add_argument(
        "--json",
        action="store_true",
        default=None,
        help=("print JSON, also on a terminal (default elsewhere)"),
    )


def _add_embeddings(commands: Commands, config: argparse.ArgumentParser) -> None:
    embeddings = commands.add_parser(
        "embeddings", help=("export the embeddings that the embeddings topic keeps")
    )
    actions = embeddings.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser(
        "export",
        parents=[config],
        help="write them to a folder that `imgclust fit` can read",
        description="Write the newest embedding of every upload that was not deleted to a folder "
        "that `imgclust fit` can read, to train on your uploads.",
    )
    export.set_defaults(handler=handlers.export)
    export.add_argument(
        "-o", "--output", required=True, type=Path, metavar="EMBEDDINGS", help="the folder to create"
    )
    export.add_argument(
        "--newer-than",
        type=duration,
        metavar="AGE",
        help=("only embeddings written within this time: 90s, 15m, 2h, 7d"),
    )


def _add_retag(commands: Commands, config: argparse.ArgumentParser) -> None:
    retag = commands.add_parser(
        "retag",
        parents=[config],
        help="tag everything again from the embeddings topic, into a separate topic",
        description=RETAG,
        epilog=RETAG_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    retag.set_defaults(handler=handlers.retag)
    retag.add_argument(
        "--to", required=True, metavar="TOPIC", help=("the topic for the tags; created if missing")
    )
    retag.add_argument(
        "--model", type=Path, metavar="MODEL", help="the model to tag with (default: the live one)"
    )
    retag.add_argument(
        "--processes", type=_positive, default=1, metavar="N",
        help="number of processes on this machine, which share its cores (default: 1)",
    )  # fmt: skip
    retag.add_argument(
        "--status", action="store_true", help=("only show the progress of the run, wherever it is running")
    )
    retag.add_argument("--quiet", action="store_true", help="do not show progress, only the result")


def _add_models(commands: Commands, config: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    models = commands.add_parser(
        "models",
        parents=[config],
        help="show or switch the live model, and what each worker runs",
        description="Without an action: show the live and the shadow model, the taxonomy that feeds "
        "read, and what each worker runs.",
        epilog=MODELS_EXAMPLES,
        formatter_class=raw,
    )
    models.set_defaults(handler=handlers.show_models)
    models.add_argument(
        "--json",
        action="store_true",
        default=None,
        help=("print JSON, also on a terminal (default elsewhere)"),
    )
    actions = models.add_subparsers(dest="action", metavar="ACTION")
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument(
        "--wait", type=duration, default=60.0, metavar="TIME",
        help="how long to wait for the workers to switch (60s; 0s: do not wait)",
    )  # fmt: skip
    chosen = actions.add_parser(
        "set",
        parents=[config, waiting],
        help="set the live model",
        description="Set the live model. The model is first loaded and tried here, refused if it "
        "gets golden images wrong, and compared with the live model on the kept "
        "embeddings of the last week. Each worker then loads and warms it up next to its "
        "current model, and switches between two batches.",
    )
    chosen.set_defaults(handler=handlers.set_live)
    chosen.add_argument("folder", metavar="FOLDER", help="the model's folder in WORKER_MODELS_FOLDER")
    chosen.add_argument(
        "--force",
        action="store_true",
        help="set it even if it gets golden images wrong",
    )
    chosen.add_argument(
        "--dry-run", action="store_true",
        help="check it and show how many tags of the last week would change, but change nothing",
    )  # fmt: skip
    shadow = actions.add_parser(
        "shadow",
        parents=[config],
        help="set a shadow model, which predicts next to the live one and publishes nothing",
        description="Set the shadow model. It predicts the same images as the live model and "
        "publishes nothing. Metrics compare the two, so that you can check it before you "
        "switch.",
    )
    shadow.set_defaults(handler=handlers.set_shadow)
    either = shadow.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "folder", nargs="?", metavar="FOLDER", help=("the model's folder in WORKER_MODELS_FOLDER")
    )
    either.add_argument("--off", action="store_true", help="remove the shadow model")
    back = actions.add_parser(
        "rollback", parents=[config, waiting], help="go back to the previous live model"
    )
    back.set_defaults(handler=handlers.roll_back)
    promote = actions.add_parser(
        "promote",
        parents=[config],
        help="let feeds read the live model's taxonomy",
        description="Let feeds read the live model's taxonomy, or another one that is in Redis.",
    )
    promote.set_defaults(handler=handlers.promote)
    promote.add_argument(
        "taxonomy",
        nargs="?",
        metavar="TAXONOMY",
        help="another taxonomy, for example to go back (default: the live model's)",
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
