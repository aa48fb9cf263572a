"""How long does anybody wait when the model changes? One worker under load, its model changed ten times.

    KAFKA_HOME=… python -m benchmarks.models [--rate 200] [--changes 10] [--cache DIR]

As in delivery.py nothing is fetched or decoded and the encoder takes a fixed time, but the model predicts:
that of 150,000 images of `benchmarks/predict.py`, fitted once and cached, and a second version of it. The
same load is run without changes, and with a shadow model beside the live one. Broker, load and worker share
the cores that there are.

Prints a JSON line for each figure, then a table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import FITTED, Figure, machine, table
from benchmarks.delivery import Bench, new_run, open_loop, percentile, say, surroundings
from benchmarks.settings import SETTINGS, with_encoder
from worker.commands import models
from worker.messages.models import Assignment, ModelRef
from worker.settings.load import load

FOLDERS = ("even", "odd")
FIRST = 3.0  # seconds before the first change


def save_models(root: Path, setting: str, cache: Path) -> dict[str, ModelRef]:
    """Two versions of one model, in folders of their own."""
    model = with_encoder(setting, cache, 8)
    named = {}
    for name, version in zip(
        FOLDERS, (model, model.renamed([str(c.id) for c in model.clusters])), strict=True
    ):
        version.save(root / name)
        named[name] = ModelRef(version.version, version.taxonomy, name)
    return named


@contextlib.contextmanager
def changing(
    bench: Bench, named: dict[str, ModelRef], changes: int, every: float
) -> Iterator[Callable[[], None]]:
    """Names the other model live every few seconds, from a while after what it yields has been called."""
    settings = load({"WORKER_BOOTSTRAP_SERVERS": bench.bootstrap, **bench.settings})
    begun, stop = threading.Event(), threading.Event()

    def run() -> None:
        begun.wait()
        if stop.wait(FIRST):
            return
        for number, name in enumerate(itertools.islice(itertools.cycle(reversed(FOLDERS)), changes)):
            models._write(settings, {"live": Assignment(named[name], number)})
            if stop.wait(every):
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield begun.set
    finally:
        stop.set()
        begun.set()
        thread.join()


def figures(arguments: argparse.Namespace, bench: Bench, root: Path) -> Iterator[Figure]:
    from worker.demo.backends import make_topics

    named = save_models(root, arguments.setting, arguments.cache)
    seconds = 2 * FIRST + arguments.changes * arguments.every
    for how in ("no change", f"{arguments.changes} changes", "a shadow model"):
        run = new_run("exactly-once")
        topic = f"models-{run}"
        make_topics(bench.bootstrap, [topic], 1)
        own = {"WORKER_MODELS_TOPIC": topic, "WORKER_MODELS_FOLDER": str(root)}
        here = dataclasses.replace(
            bench, model=root / FOLDERS[0], predict=True, settings=own, cores=arguments.cores
        )
        changes = arguments.changes if "changes" in how else 0
        if how == "a shadow model":
            settings = load({"WORKER_BOOTSTRAP_SERVERS": bench.bootstrap, **own})
            models._write(settings, {"shadow": Assignment(named[FOLDERS[1]], 0)})
        with changing(here, named, changes, arguments.every) as begun:
            found = open_loop("exactly-once", here, run, arguments.rate, seconds, slow=False, begun=begun)
        log = (bench.logs / f"{run}.log").read_text()
        loads = [float(s) for s in re.findall(r"another model is at work.*? seconds=([0-9.]+)", log)]
        if len(loads) != changes:
            raise SystemExit(f"{changes} changes were asked for, {len(loads)} made: {bench.logs / run}.log")
        arrived = np.sort(found.arrived)
        yield Figure("models", f"{how}: uploads tagged", "uploads", len(found.latencies))
        for label, share in (("median", 0.5), ("99th percentile", 0.99), ("longest", 1.0)):
            yield Figure(
                "models",
                f"{how}: {label} from upload to tag",
                "ms",
                1000 * percentile(found.latencies, share),
            )
        yield Figure(
            "models", f"{how}: longest time without a tag", "ms", 1000 * float(np.diff(arrived).max())
        )
        if loads:
            yield Figure("models", f"{how}: load and warm beside the old one", "s", float(np.median(loads)))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rate", type=float, default=200.0, help="uploads/s (%(default)s)")
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two changes (%(default)s)")
    parser.add_argument("--call-ms", type=float, default=20.0, help="of the encoder (%(default)s)")
    parser.add_argument("--cores", default="0,1", help="of the worker (%(default)s)")
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="synthetic-150k")
    parser.add_argument("--cache", type=Path, default=FITTED)
    arguments = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    lines = []
    with surroundings(arguments.call_ms) as bench, tempfile.TemporaryDirectory() as folder:
        for figure in figures(arguments, bench, Path(folder)):
            print(figure.line(), flush=True)
            say(f"{figure.figure}: {figure.value:.4g} {figure.unit}")
            lines.append(json.loads(figure.line()))
    print(table(lines))


if __name__ == "__main__":
    main()
