"""What a long computation says while it runs: its stage, how far it is, how long it has taken."""

from __future__ import annotations

import dataclasses
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Tell = Callable[[float | None], None]
BEAT_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """A report.

    Attributes:
        stage: "duplicates", "umap", "hdbscan", "predict", "taxonomy" or "map".
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
        listener: told at the start and at the end of each stage (`done` is 1), and in between, at least every
            `BEAT_SECONDS` (from another thread, never from two at once), so that a stage which cannot say how
            far it is still shows that it lives.
        clock: seconds, monotonic.

    Attributes:
        seconds: stage → seconds that it took.
    """

    def __init__(self, listener: Listener | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._listener, self._clock = listener, clock
        self._one_at_a_time = threading.Lock()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, detail: str) -> Iterator[Tell]:
        """Run a stage; what it yields is called with the share that is done."""
        start, latest, ended = self._clock(), None, threading.Event()

        def tell(done: float | None) -> None:
            nonlocal latest
            with self._one_at_a_time:
                latest = done
                if self._listener:
                    self._listener(Progress(name, detail, done, self._clock() - start))

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                tell(latest)

        tell(None)
        thread = threading.Thread(target=beat, name="imgclust-progress", daemon=True)
        if self._listener:
            thread.start()
        try:
            yield tell
        finally:
            ended.set()
            if self._listener:
                thread.join()
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


def umap_progress(tell: Tell) -> dict[str, Any]:
    """Arguments for `umap.UMAP` that show its progress bar to `tell` instead of on the terminal.

    Not `verbose`: that would print, and standard output belongs to whoever calls.
    """
    bars = {"disable": False, "file": _Bar(tell), "bar_format": "steps {n_fmt}/{total_fmt}"}
    return {"tqdm_kwds": {**bars, "mininterval": 0.5}}
