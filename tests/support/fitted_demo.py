"""`imgclust-worker demo` that fits once: what comes before the stream is kept for the next run in the same
folder. Its worker and its wall are forked, and everything else is the demo's own."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import worker.demo.demo as demo
import worker.demo.services as services
from tests.support.preloaded import Program
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


class Forked(Program):
    """What the demo starts by `subprocess.Popen`; its number is in a file beside its log."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], stdout: IO[bytes], **_: Any
    ) -> None:
        log, (module, *arguments) = Path(stdout.name), command[2:]
        quick = {"WORKER_MAX_BATCH": "4"}  # a start tries every size up to this one
        super().__init__(module, *arguments, env={**env, **quick}, log=log)
        log.with_suffix(".pid").write_text(str(self.pid))


if __name__ == "__main__":
    fit, write = demo._train, demo._report
    demo._train, demo._report = train, report
    services.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Forked})  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
