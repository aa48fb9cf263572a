"""Fits on samples of the images, side by side in processes.

One UMAP of a few thousand images depends on which of them it was given, more than on how clusters are chosen
from it; so several of them are asked. See docs/decisions/0027-steady-clusters.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from imgclust.errors import FitError
from imgclust.training.coassociation import Refit, Refits
from imgclust.training.refitting import Job

PROGRAM = "imgclust.training.refitting"
QUOTED = 1000  # last characters of what a process that failed wrote


def refits(job: Job, processes: int, progress: Callable[[float], None] | None = None) -> Refits:
    """As many as the job's parameters want, shared out; the same, bit for bit, by any number of processes.

    Args:
        processes: 1 and more, this one among them.
        progress: called with the share that is done, from any thread.

    Raises:
        FitError: a process failed.
    """
    count = job.parameters.consensus
    done = np.zeros(count)

    def tell(number: int, share: float) -> None:
        done[number] = share
        if progress:
            progress(float(done.mean()))

    own, *others = [range(first, count, processes) for first in range(min(processes, count))]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imgclust-")))
        listeners = stack.enter_context(ThreadPoolExecutor(max(1, len(others))))
        if others:
            job.write(folder)
        started = [stack.enter_context(_started(folder, share)) for share in others]
        heard = [listeners.submit(_listen, process, tell) for process in started]
        fits = {}
        for number in own:
            fits[number] = job.refit(number, lambda share, number=number: tell(number, share))  # type: ignore[misc]
            tell(number, 1.0)
        for process, share, end in zip(started, others, heard, strict=True):
            end.result()
            if process.wait():
                raise FitError(_failure(process.returncode, folder / f"{share[0]}.err"))
            fits |= {number: Refit(**np.load(folder / f"{number}.npz")) for number in share}
    return Refits.of(
        len(job.rows), [fits[number] for number in range(count)], job.parameters.min_cluster_size
    )


@contextmanager
def _started(folder: Path, numbers: range) -> Iterator[subprocess.Popen[str]]:
    """A process that makes these refits; it ends with the context."""
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    with (
        (folder / f"{numbers[0]}.err").open("w") as errors,
        # a program of its own, and not multiprocessing's, which would import the parent's main module again
        subprocess.Popen(  # noqa: S603 — our own interpreter, our own module
            [sys.executable, "-P", "-W", "ignore", "-m", PROGRAM, str(folder), *map(str, numbers)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _listen(process: subprocess.Popen[str], tell: Callable[[int, float], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        number, share = line.split()
        tell(int(number), float(share))


def _failure(code: int, errors: Path) -> str:
    text = errors.read_text("utf-8", "replace")[-QUOTED:].strip()
    return (
        f"a process that fits a sample of the images ended with {code}: {text!a}; without consensus "
        "(consensus = 0) there is none, and with fewer cores (taskset) fewer run at once"
    )
