"""Progress of long computations: the stage, the share that is done, the time it has taken."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

LINE_SECONDS = 10.0

Update = Callable[[float | None], None]
BEAT_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """A report.

    Attributes:
        stage: "duplicates", "previous", "consensus", "umap", "hdbscan", "stability", "predict", "other",
            "taxonomy" or "map".
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
    """Times stages and reports to a listener.

    Args:
        listener: called at the start and at the end of each stage (`done` is 1), and in between at least
            every `BEAT_SECONDS` (from another thread, never from two at once), so that a stage which cannot
            report its share still shows that it is alive.
        clock: seconds, monotonic.

    Attributes:
        seconds: stage → seconds that it took.
    """

    def __init__(self, listener: Listener | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._listener, self._clock = listener, clock
        self._one_at_a_time = threading.Lock()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, detail: str) -> Iterator[Update]:
        """Run a stage; what it yields is called with the share that is done."""
        start, latest, ended = self._clock(), None, threading.Event()

        def update(done: float | None) -> None:
            nonlocal latest
            with self._one_at_a_time:
                latest = done
                if self._listener:
                    self._listener(Progress(name, detail, done, self._clock() - start))

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                update(latest)

        update(None)
        thread = threading.Thread(target=beat, name="imgclust-progress", daemon=True)
        if self._listener:
            thread.start()
        try:
            yield update
        finally:
            ended.set()
            if self._listener:
                thread.join()
        self.seconds[name] = round(self._clock() - start, 3)
        update(1.0)


_STEPS = re.compile(r"steps (\d+)/(\d+)")


class _Bar(io.TextIOBase):
    """Takes the text of a tqdm bar and reports the share that it shows."""

    def __init__(self, update: Update) -> None:
        self._update = update

    def write(self, text: str) -> int:
        found = _STEPS.search(text)
        if found and int(found[2]):
            self._update(int(found[1]) / int(found[2]))
        return len(text)


def umap_progress(update: Update) -> dict[str, Any]:
    """Arguments for `umap.UMAP` that send its progress bar to `update` instead of the terminal.

    Not `verbose`: that would print, and standard output belongs to whoever calls.
    """
    bars = {"disable": False, "file": _Bar(update), "bar_format": "steps {n_fmt}/{total_fmt}"}
    return {"tqdm_kwds": {**bars, "mininterval": 0.5}}


class Bar(Protocol):
    """Something that wants to know how many images are done."""

    def advance(self, n: int) -> None: ...


class _Silent:
    def advance(self, n: int) -> None:
        """Nobody wants to know."""


class _Total:
    """Counts the whole beside the work, as that alone may take a while."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.value: int | None = None
        self._count = count
        threading.Thread(target=self._run, name="imgclust-count", daemon=True).start()

    def _run(self) -> None:
        try:
            self.value = self._count()
        except Exception:
            self.value = None  # the run itself meets the same error and reports it


class _Lines:
    def __init__(self, what: str, total: _Total, file: TextIO, clock: Callable[[], float]) -> None:
        self._what, self._total, self._file, self._clock = what, total, file, clock
        self._done, self._started, self._last = 0, clock(), clock()

    def advance(self, n: int) -> None:
        self._done += n
        if self._clock() - self._last >= LINE_SECONDS:
            self._last = self._clock()
            self.line()

    def line(self) -> None:
        rate = self._done / max(self._clock() - self._started, 1e-9)
        total = self._total.value
        of = "" if total is None else f" of {total}"
        left = "" if total is None or not rate else f", {max(total - self._done, 0) / rate:.0f} s left"
        print(f"{self._what}: {self._done}{of} images, {rate:.1f}/s{left}", file=self._file, flush=True)


@contextmanager
def bar_for(
    what: str,
    count: Callable[[], int] | None,
    *,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
    """Show how far `what` is while the context lasts.

    Args:
        count: () → the number of images in all, called in a thread; None shows nothing.
        file: stderr by default.
        clock: monotonic seconds.
    """
    file = file or sys.stderr
    if count is None:
        yield _Silent()
    elif file.isatty():
        with _on_terminal(what, _Total(count), file) as bar:
            yield bar
    else:
        yield _Lines(what, _Total(count), file, clock)


@contextmanager
def _on_terminal(what: str, total: _Total, file: TextIO) -> Iterator[Bar]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(file=file)) as shown:
        task = shown.add_task(what, total=None, rate="")

        class OnTerminal:
            def advance(self, n: int) -> None:
                shown.update(task, advance=n, total=total.value)
                speed = shown.tasks[0].speed
                shown.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield OnTerminal()


def stage_lines(file: TextIO) -> Callable[[Progress], None]:
    """A listener for long computations: on a terminal one line, written over, else one now and then."""
    terminal = file.isatty()
    ended: set[str] = set()
    shown: dict[str, float] = {}

    def listen(progress: Progress) -> None:
        if progress.stage in ended:
            return
        share = "" if progress.done is None else f" {progress.done:4.0%}"
        text = f"{progress.stage}: {progress.detail}{share}, {progress.elapsed:.0f} s"
        if progress.done == 1:
            ended.add(progress.stage)
        if terminal:
            print(f"\r\x1b[K{text}", end="\n" if progress.done == 1 else "", file=file, flush=True)
            return
        last = shown.get(progress.stage)
        if last is None or progress.done == 1 or progress.elapsed - last >= LINE_SECONDS:
            shown[progress.stage] = progress.elapsed
            print(text, file=file, flush=True)

    return listen
