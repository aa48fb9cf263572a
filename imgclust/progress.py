"""What a long computation says while it runs: its stage, how far it is, how long it has taken."""

from __future__ import annotations

import dataclasses
import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

Tell = Callable[[float | None], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """A report.

    Attributes:
        stage: "duplicates", "umap", "hdbscan", "predict" or "map".
        detail: for people.
        done: share of the stage, 0..1; None: not known.
        elapsed: seconds since the stage began.
    """

    stage: str
    detail: str
    done: float | None
    elapsed: float


Listener = Callable[[Progress], None]


class Stages:
    """Times stages and tells a listener.

    Args:
        listener: told at the start and at the end of each stage (`done` is 1), and in between.
        clock: seconds, monotonic.

    Attributes:
        seconds: stage → seconds that it took.
    """

    def __init__(self, listener: Listener | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._listener, self._clock = listener, clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, detail: str) -> Iterator[Tell]:
        """Run a stage; what it yields is called with the share that is done."""
        start = self._clock()

        def tell(done: float | None) -> None:
            if self._listener:
                self._listener(Progress(name, detail, done, self._clock() - start))

        tell(None)
        yield tell
        self.seconds[name] = round(self._clock() - start, 3)
        tell(1.0)


_STEPS = re.compile(r"steps (\d+)/(\d+)")


class _Bar(io.TextIOBase):
    """Takes the text of a tqdm bar and tells the share that it shows."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def write(self, text: str) -> int:
        found = _STEPS.search(text)
        if found and int(found[2]):
            self._tell(int(found[1]) / int(found[2]))
        return len(text)


@contextmanager
def umap_progress(tell: Tell) -> Iterator[dict[str, Any]]:
    """Arguments for `umap.UMAP` whose progress bar then speaks to `tell`, and not to the terminal."""
    bar = _Bar(tell)
    bars = {"file": bar, "bar_format": "steps {n_fmt}/{total_fmt}", "mininterval": 0.5}
    with redirect_stdout(bar):  # what `verbose` prints besides
        yield {"verbose": True, "tqdm_kwds": bars}
