"""What each command calls. Imports happen in the calls, so that `--help` loads nothing heavy."""

from __future__ import annotations

import argparse
import functools
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.commands.dead_letters import Filter
    from worker.settings.settings import Settings

Handler = Callable[[argparse.Namespace], int]


def read_settings(args: argparse.Namespace) -> Settings:
    """Settings from the environment and `--config`; logs as they say.

    Raises:
        SettingsError
    """
    from worker.settings.load import load
    from worker.telemetry import log as logs

    settings = load(config=args.config)
    logs.configure(None if settings.log == "auto" else settings.log)
    if settings.kafka:
        from worker.wiring import check_properties

        check_properties(settings)
    return settings


def _printing(handler: Handler) -> Handler:
    """A command whose output may be cut off by its reader: `… | head`."""

    @functools.wraps(handler)
    def handle(args: argparse.Namespace) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not have every letter
        try:
            return handler(args)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    return handle


# ── the service ──────────────────────────────────────────────────────────────────────────────────────────


def run(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.run import run

    return _leave(run(settings, view=not args.no_view))


def view(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.run import run_view

    return _leave(run_view(settings, rebuild=args.rebuild))


def _leave(code: int) -> int:
    """End without the interpreter's farewell: it closes the Kafka clients one after the other, each of which
    may wait for a broker that is away, and all that matters is committed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wall(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.wall import wall

    return wall(settings)


def serve(args: argparse.Namespace) -> int:
    from worker.commands.serve import serve

    return _leave(serve(read_settings(args)))


def demo(args: argparse.Namespace) -> int:
    from worker.demo.demo import demo

    return demo(args.images, kafka=args.kafka, out=args.out, encoder=args.encoder, uploads=args.uploads)


# ── before a start ───────────────────────────────────────────────────────────────────────────────────────


@_printing
def check(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    if args.event is not None:
        from worker.commands.check_event import check_event

        return check_event(settings, Path(args.event) if args.event else None)
    from worker.commands.check import check

    return check(settings)


@_printing
def topics(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.topics import command

    return command(settings, create=args.create, replicas=args.replication)


@_printing
def list_settings(args: argparse.Namespace) -> int:
    if args.format == "text":
        from worker.settings.table import settings_text

        print(settings_text())
        return 0
    from worker.settings.templates import template

    print(template(args.format))
    return 0


# ── uploads and dead letters ─────────────────────────────────────────────────────────────────────────────


@_printing
def explain(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.explain import explain

    return explain(settings, args.id, since=args.since, as_json=args.json)


def _chosen(args: argparse.Namespace) -> Filter:
    """Which dead letters are meant."""
    from worker.commands.dead_letters import Filter

    return Filter(
        frozenset(args.code),
        frozenset(args.id),
        frozenset(args.partition),
        args.older_than,
        args.newer_than,
    )


@_printing
def list_dead_letters(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.dlq import list_dead_letters

    return list_dead_letters(settings, _chosen(args), counts=args.counts, limit=args.limit, as_json=args.json)


@_printing
def replay(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.replay import replay

    return replay(settings, _chosen(args), dry_run=args.dry_run, yes=args.yes, as_json=args.json)


# ── embeddings and models ────────────────────────────────────────────────────────────────────────────────


@_printing
def export(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.export import export

    return export(settings, args.output, newer_than=args.newer_than)


@_printing
def retag(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.retag import retag, status

    if args.status:
        return status(settings, args.to, quiet=args.quiet)
    again = ["--to", args.to]
    for name, value in (("--model", args.model), ("--config", args.config)):
        if value is not None:
            again += [name, str(value)]
    return retag(settings, args.to, model=args.model, processes=args.processes, again=again, quiet=args.quiet)


@_printing
def show_models(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.models import show

    return show(settings, as_json=args.json)


@_printing
def set_live(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.set_models import set_live

    return set_live(settings, args.folder, wait=args.wait, force=args.force, dry_run=args.dry_run)


@_printing
def set_shadow(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.set_models import set_shadow

    return set_shadow(settings, None if args.off else args.folder)


@_printing
def roll_back(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.set_models import roll_back

    return roll_back(settings, wait=args.wait)


@_printing
def promote(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    from worker.commands.set_models import promote

    return promote(settings, args.taxonomy)
