"""How a process comes to a run: it joins the one that is not finished, or begins the next.

Where a run ends has to be the same for all of its members, whenever they come: it is written down once, for
all partitions in one transaction, before anything is tagged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from worker.errors import StartError, WorkerError
from worker.kafka.claim import Claim, ClaimLost
from worker.retagging.runs import Run, last_number

TRIES = 10  # to begin a run while others do

Offsets = Mapping[int, tuple[int, str]]


def join(
    committed: Callable[[], Offsets],
    bounds: Callable[[], Mapping[int, tuple[int, int]]],
    starter: Callable[[], Claim],
    *,
    partitions: Sequence[int],
    model: str,
    to: str,
    target: str,
) -> Run:
    """
    Args:
        committed: the group's offsets of the embeddings topic.
        bounds: partition → where the embeddings topic begins and ends now.
        starter: the claim under which runs to this topic are begun.
        partitions: of the topic that the tags go to.
        model: version.
        to, target: name and id of that topic.

    Raises:
        StartError: another model's run is not finished, or the topics do not have as many partitions.
        WorkerError: no run could be begun.
    """
    for _ in range(TRIES):
        run = Run.read(committed(), partitions)
        if run is not None and _is_going_on(run, model, to, target):
            return run
        with contextlib.suppress(ClaimLost):  # somebody else begins one in this moment
            return _begin(committed, bounds, starter, partitions, model, to, target)
    raise WorkerError(f"no run to {to!r} could be started; run it again")


def _is_going_on(run: Run, model: str, to: str, target: str) -> bool:
    """
    Raises:
        StartError: with another model.
    """
    if not run.left or not run.is_of(target):
        return False
    if run.model != model:
        raise StartError(
            f"{to!r} is being filled with tags of model {run.model}: {run.left:,} of {run.total:,} records "
            f"are left. Finish that with its model first, or give another topic to model {model}"
        )
    return True


def _begin(
    committed: Callable[[], Offsets],
    bounds: Callable[[], Mapping[int, tuple[int, int]]],
    starter: Callable[[], Claim],
    partitions: Sequence[int],
    model: str,
    to: str,
    target: str,
) -> Run:
    claim = starter()
    try:
        found = committed()  # once more: whoever began a run before is done with that, or will never be
        before = Run.read(found, partitions)
        if before is not None and _is_going_on(before, model, to, target):
            return before
        edges = bounds()
        if sorted(edges) != sorted(partitions):
            raise StartError(
                f"{to!r} has {len(partitions)} partitions, the embeddings topic {len(edges)}: "
                "give another topic"
            )
        if before is not None and before.model == model and before.is_of(target):
            # what has come since
            edges = {p: (min(before.parts[p].offset, high), high) for p, (_, high) in edges.items()}
        run = Run.begin(last_number(found) + 1, model, target, edges)
        claim.commit({p: (part.offset, part.note.text()) for p, part in run.parts.items()})
        return run
    finally:
        claim.close()
