"""Refits in processes of their own; how such a program starts alone is seen in `test_consensus`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pytest

from imgclust.training import consensus
from imgclust.training.consensus import refits
from tests.support import fitted, preloaded


class Started(preloaded.Program):
    """As much of `subprocess.Popen` as `consensus` uses, for `python … -m MODULE ARGUMENTS`."""

    def __init__(self, command: list[str], *, env: dict[str, str], stderr: IO[str], **_: object) -> None:
        module, *arguments = command[command.index("-m") + 1 :]
        errors = Path(stderr.name)
        self._log = errors.with_suffix(".out")
        super().__init__(module, *arguments, env=env, log=self._log, errors=errors)

    @property
    def stdout(self) -> list[str]:
        self.wait(120)
        return self._log.read_text().splitlines()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(60)


def test_the_number_of_processes_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refits of another process are those of this one, bit for bit."""
    told: list[float] = []
    here = refits(fitted.job(), 1)
    piped = {"PIPE": subprocess.PIPE, "DEVNULL": subprocess.DEVNULL}
    monkeypatch.setattr(consensus, "subprocess", SimpleNamespace(Popen=Started, **piped))
    there = refits(fitted.job(), 2, told.append)
    assert told[-1] == 1.0
    for one, two in zip(here.fits, there.fits, strict=True):
        for name in ("rows", "labels", "tree"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
