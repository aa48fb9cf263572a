"""`imgclust-worker demo` that fits once: what comes before the stream is kept for the next run in the same
folder, and everything else is the demo's own."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import worker.demo.demo as demo
from worker.__main__ import main
from worker.demo.screen import Screen
from worker.demo.training import Trained

KEPT = "trained.pickle"


def train(screen: Screen, folders: Sequence[Path], out: Path, name: str) -> Trained:
    kept = out / KEPT
    if not kept.exists():
        trained = fit(screen, folders, out, name)
        write(screen, trained, out)
        kept.write_bytes(pickle.dumps(trained))
    found: Trained = pickle.loads(kept.read_bytes())
    return found


def report(screen: Screen, trained: Trained, out: Path) -> Path:
    return out / "report.html"


if __name__ == "__main__":
    fit, write = demo._train, demo._report
    demo._train, demo._report = train, report
    sys.exit(main(sys.argv[1:]))
