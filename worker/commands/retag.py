"""`imgclust-worker retag`: the embeddings topic → tags of a model, in a topic of their own.

As many processes as there are partitions share the work, on one machine or on many: whoever gives the same
command joins the run. Tags and progress are one Kafka transaction, so a run that was stopped goes on where it
was, and no tag is published twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imgclust.model.model import ClusterModel
from imgclust.support.progress import bar_for
from worker import wiring
from worker.commands.export import embeddings_topic
from worker.errors import SettingsError
from worker.kafka.claim import Claim
from worker.kafka.group_share import GroupShare
from worker.kafka.made_topic import tags_topic
from worker.kafka.scanner import Scanner
from worker.retagging.joining import join
from worker.retagging.member import BATCH, Member
from worker.retagging.runs import Run
from worker.retagging.tagging import Retagger
from worker.settings.settings import Settings
from worker.signals import Signals
from worker.tagger.model_loading import first_model

CLIENT = "imgclust-retag"
EXIT_STOPPED = 130
LEAVE = 60.0  # seconds for which the other processes of this command are waited for
LOOK = 2.0  # seconds between two looks at a run that others work on


def retag(
    settings: Settings,
    to: str,
    *,
    model: Path | None = None,
    processes: int = 1,
    again: Sequence[str] = (),
    quiet: bool = False,
) -> int:
    """Tag everything that the embeddings topic holds now, into the topic `to`; or help those who do.

    Args:
        to: made when it is missing, with as many partitions. It names the run.
        model: by default the one that a worker would start with.
        processes: of this machine: this one, and others that are started with the arguments `again`.

    Returns:
        0 when the run is finished, 130 when a signal ended this process before.

    Raises:
        SettingsError: no model, or a topic that has another purpose.
        StartError: another model's run to this topic is not finished.
        WorkerError: Kafka is away or refuses.
        ModelError: the model cannot be loaded, or does not predict on WORKER_PREDICT_DEVICE.
    """
    source = _source(settings, to)
    loaded = _model(settings, model, processes)
    with contextlib.ExitStack() as stack:
        kafka = stack.enter_context(Clients(settings, source, to))
        run = kafka.join(loaded)
        if run.done and not quiet:
            print(f"continuing: {run.left:,} records are left", file=sys.stderr)
        signals = stack.enter_context(Signals().installed())
        stack.enter_context(_others(min(processes, len(run.parts)) - 1, again, signals.stop))
        progress = _Progress(run)
        with bar_for("retag", None if quiet else lambda: run.left) as bar:
            member = kafka.member(run, loaded, lambda now: bar.advance(progress.since(now)))
            while not member.finished and not signals.stop.is_set():
                member.run_once()
            member.stop()
        rate = progress.rate(member.run)
    print("\n".join(_summary(member.run, to, rate)))
    if member.replaced:
        print(f"another run to {to!r} has begun since", file=sys.stderr)
    if member.finished:
        return 0
    print(f"stopped; {member.run.left:,} records are left; run the same command to continue", file=sys.stderr)
    return EXIT_STOPPED


def _source(settings: Settings, to: str) -> str:
    """
    Raises:
        SettingsError: there is none, or `to` is in use.
    """
    source = embeddings_topic(settings)
    if to in wiring.topics_config(settings).names.values():
        raise SettingsError(f"--to {to!r} is one of the worker's own topics; name another one")
    return source


def status(settings: Settings, to: str, *, quiet: bool = False) -> int:
    """Show how far the last run to `to` is, and follow it until it is finished unless `quiet`.

    Returns:
        1 when there was none.

    Raises:
        StartError, WorkerError: Kafka is away or refuses.
    """
    source = embeddings_topic(settings)
    with Clients(settings, source, to) as kafka:
        run = kafka.run()
        if run is None:
            print(f"there has been no run to {to!r} (group {kafka.group!r})", file=sys.stderr)
            return 1
        left = len(run.unfinished)
        print(
            f"{run.done:,} of {run.total:,} records by model {run.model}; "
            f"{left} of {len(run.parts)} partitions are not finished"
        )
        if left and not quiet:
            run = _follow(kafka, run)
        print("\n".join(_summary(run, to)))
    return 0


def _follow(kafka: Clients, run: Run) -> Run:
    progress = _Progress(run)
    with bar_for("retag", lambda: run.left) as bar:
        now: Run | None = run
        while now is not None and now.number == run.number and now.left:
            time.sleep(LOOK)
            now = kafka.run()
            if now is not None:
                bar.advance(progress.since(now))
    return now or run


def _model(settings: Settings, model: Path | None, processes: int) -> ClusterModel:
    """
    Raises:
        SettingsError: none is named.
    """
    if model is None and settings.model is None and settings.models_topic is None:
        raise SettingsError("no model to tag with: give --model, or set WORKER_MODEL")
    if processes > 1:
        import torch

        torch.set_num_threads(_threads(processes))
    if model is not None:
        return ClusterModel.load(model).predicting_on(settings.predict_device)
    return first_model(settings)


def _threads(processes: int) -> int:
    """Of each process: together as many as this one alone would have."""
    import torch

    return max(1, torch.get_num_threads() // processes)


class Clients:
    """The clients of one process; a context manager."""

    def __init__(self, settings: Settings, source: str, to: str) -> None:
        self._settings, self._source, self._to = settings, source, to
        self._connection = wiring.connection(settings)
        self.group = f"{settings.group_id}.retag.{to}"
        self._stack = contextlib.ExitStack()
        self._scanner = Scanner(self._connection, self.group)
        self._share = GroupShare(self._connection, CLIENT, self.group, settings.group_protocol, source)

    def __enter__(self) -> Clients:
        self._stack.enter_context(self._scanner)
        self._stack.enter_context(self._share)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _claim(self, name: str) -> Claim:
        return Claim(self._connection, CLIENT, name, self._scanner.membership(), self._source)

    def run(self) -> Run | None:
        """The last one."""
        committed = self._share.committed(self._scanner.partitions(self._source))
        return Run.read(committed, sorted(committed)) if committed else None

    def join(self, model: ClusterModel) -> Run:
        """See `worker.retagging.joining.join`."""
        partitions = self._scanner.partitions(self._source)
        topic = tags_topic(self._connection, self._to, len(partitions))
        return join(
            lambda: self._share.committed(partitions),
            lambda: {p: self._scanner.bounds(self._source, p) for p in partitions},
            lambda: self._claim(self.group),
            partitions=range(topic.partitions),
            model=model.version,
            to=self._to,
            target=topic.id,
        )

    def member(self, run: Run, model: ClusterModel, watching: Callable[[Run], None]) -> Member:
        """Join the group."""
        tags = wiring.formats(dataclasses.replace(self._settings, tags_topic=self._to)).tags
        self._share.join()
        return Member(
            run,
            self._share,
            lambda partition: self._claim(f"{self.group}.{partition}"),
            source=self._source,
            to=self._to,
            reader=self._scanner,
            retagger=Retagger(model, tags, BATCH),
            watching=watching,
        )


@contextlib.contextmanager
def _others(count: int, again: Sequence[str], stop: threading.Event) -> Iterator[None]:
    """More members on this machine, which end with the run; if this one ends before, so do they.

    Args:
        stop: set when a signal ends this one.
    """
    if count <= 0:
        yield
        return
    threads = str(_threads(1))
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "worker", "retag", *again, "--quiet"]
    others = [
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)  # noqa: S603 (this program again)
        for _ in range(count)
    ]
    patience = 0.0
    try:
        yield
        patience = 0.0 if stop.is_set() else LEAVE
    finally:
        deadline = time.monotonic() + patience
        for other in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(max(0.0, deadline - time.monotonic()))
        for other in others:
            other.terminate()
        for other in others:
            other.wait()


class _Progress:
    """How far a run has come since it was looked at first, by all of its members."""

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._first, self._shown, self._tags = run.done, run.done, run.tags

    def since(self, run: Run) -> int:
        """Offsets that have been passed since the last call."""
        passed, self._shown = max(0, run.done - self._shown), max(run.done, self._shown)
        if self._shown == self._first:  # it takes seconds until the group gives out partitions
            self._began = self._clock()
        return passed

    def rate(self, run: Run) -> float:
        """Tags in a second."""
        return (run.tags - self._tags) / max(self._clock() - self._began, 1e-9)


def _summary(run: Run, to: str, rate: float | None = None) -> Iterator[str]:
    speed = "" if rate is None else f"; {rate:,.0f}/s"
    yield f"{run.tags:,} tags of model {run.model} in {to!r}, {run.deletions:,} deletions{speed}"
    for reason, count in run.left_out.items():
        yield f"  {count:,} left out: {reason}"
