"""Runs that must be caught: the worker with one of its promises broken, by parts replaced at its start.

None of this can be reached from the worker: only `subject.py` calls it, in a process of a test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.run import Options, RunOutcome


def ignored_metadata() -> None:
    """What is done beyond the committed offset is forgotten at every start."""
    import worker.kafka.positioning as positioning

    class Forgetful(positioning.PartitionOffsets):  # type: ignore[name-defined, misc]
        def __init__(self, position: int, metadata: str | None = None, **known: Any) -> None:
            super().__init__(position, None, **known)

    positioning.PartitionOffsets = Forgetful  # type: ignore[misc]


def no_superseding() -> None:
    """Every event of an id is published, in whatever order they get done."""
    from worker.tagger.endings import Endings
    from worker.tagger.in_flight import InFlight
    from worker.tagger.pipeline import Pipeline

    class Latest(dict[Any, Any]):
        def __delitem__(self, key: Any) -> None:
            self.pop(key, None)

    consume, created = Pipeline._consume, InFlight.__init__

    def init(self: Any) -> None:
        created(self)
        self._by_id = Latest()

    def one_by_one(self: Any, records: Any) -> None:
        for record in records:
            consume(self, [record])

    InFlight.__init__ = init  # type: ignore[method-assign]
    Pipeline._consume = one_by_one  # type: ignore[method-assign]
    Endings.supersede = lambda *_: None  # type: ignore[method-assign]


def foreign_offsets() -> None:
    """Offsets of partitions that are somebody else's by now are committed under a fresh membership."""
    from worker.kafka.consumer import UploadsConsumer

    leave, snapshot = UploadsConsumer._leave, UploadsConsumer.snapshot
    gone: dict[int, tuple[int, str]] = {}

    def remember(self: Any, named: Any, *, lost: bool) -> None:
        for partition in (p.partition for p in named):
            owned = self._owned.get(partition)
            if owned is not None and owned.offsets is not None:
                gone[partition] = owned.offsets.state()
        leave(self, named, lost=lost)

    def unfiltered(self: Any, *args: Any) -> Any:
        taken = snapshot(self, *args)
        if taken is None:
            return None
        mine = {partition for partition, _, _ in taken.states} | set(self._owned)
        foreign = tuple((p, -1, state) for p, state in gone.items() if p not in mine)
        return dataclasses.replace(taken, states=taken.states + foreign)

    UploadsConsumer._leave = remember  # type: ignore[method-assign]
    UploadsConsumer.snapshot = unfiltered  # type: ignore[method-assign]


SABOTAGES: dict[str, Callable[[], None]] = {
    "ignored-metadata": ignored_metadata,
    "foreign-offsets": foreign_offsets,
    "no-superseding": no_superseding,
}
CONTROLS = ("at-least-once", *SABOTAGES)


def control(name: str, options: Options, *, chosen: bool) -> Options:
    """The options of a control: a short run whose faults meet the broken promise, unless some were chosen."""
    from tests.faults.breaking import Plan

    plan, env = Plan(kills=5, rebalances=3), {**options.env}
    options = dataclasses.replace(options, uploads=min(options.uploads, 1500))
    if name == "at-least-once":
        # dies with results that everybody can read and that it has not committed: a kill at random may meet
        # only workers that have nothing
        plan = Plan(failpoint_kills=3, kill_at=("before-commit",))
        env["WORKER_DELIVERY"] = "at-least-once"
    else:
        env["FAULTS_SABOTAGE"] = name
    if name == "foreign-offsets":
        # who is killed remembers nothing of what it had; and there must be work while partitions move
        plan, options = Plan(rebalances=2), dataclasses.replace(options, uploads=500, rate=40.0)
    return dataclasses.replace(options, plan=options.plan if chosen else plan, env=env)


def caught(name: str, outcome: RunOutcome) -> bool:
    """Whether the checker noticed. At-least-once delivery publishes results again and loses none."""
    kinds = {finding.kind for finding in outcome.report.findings}
    if name == "at-least-once":
        return "duplicate" in kinds and "lost" not in kinds
    return bool(kinds)
