"""`imgclust-worker`'s arguments: every command has its handler, and errors have their exit codes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from imgclust.errors import ImgclustError
from worker import __main__ as program
from worker.commands import handlers
from worker.commands.arguments import parser
from worker.errors import SettingsError, StartError, WorkerError


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Commands and actions that can be called as they stand."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in below:
        for sub in action.choices.values():
            yield from leaves(sub)
    if not any(action.required for action in below):
        yield parser


def test_every_command_has_a_handler_and_every_handler_a_command() -> None:
    """None is forgotten, and none is left over."""
    found = [p.get_default("handler") for p in leaves(parser()) if p.prog != "imgclust-worker"]
    public = {f for name, f in vars(handlers).items() if name[0] != "_" and callable(f) and name[0].islower()}
    ours = {f for f in public if f.__module__ == handlers.__name__} - {handlers.read_settings}
    assert set(found) == ours
    assert len(found) == len(ours)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            SettingsError("WORKER_X is wrong\nWORKER_Y too"),
            2,
            "settings: WORKER_X is wrong\n    WORKER_Y",
        ),
        (StartError("no topic"), 3, "cannot start: no topic"),
        (ImgclustError("no model"), 3, "cannot start: no model"),
        (WorkerError("gone"), 1, "stopped: gone"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One for each kind of error, with its text on stderr."""

    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(handlers, "check", fail)
    assert program.main(["check"]) == code
    assert words in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`… | head` closes the pipe: exit code 0, and the rest goes nowhere."""
    closed = []
    monkeypatch.setattr(handlers.os, "dup2", lambda *_: closed.append(True))

    def cut_off() -> str:
        raise BrokenPipeError

    monkeypatch.setattr("worker.settings.table.settings_text", cut_off)
    assert program.main(["settings"]) == 0
    assert closed
