"""`imgclust-worker models`: what it shows and what it waits for, of a topic that the test writes."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest

from tests.support import fitted
from worker.commands import models, set_models
from worker.commands.arguments import parser
from worker.errors import SettingsError, StartError
from worker.messages.models import Assignment, ModelRef, ModelRole, ModelsState, WorkerReport
from worker.settings.load import load
from worker.settings.settings import Settings

NOW = 1_795_000_000_000
OLD, NEW = ModelRef("a" * 12, "a" * 12, "old"), ModelRef("b" * 12, "a" * 12, "new")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> ModelsState:
    """The topic as it stands."""
    made = ModelsState()
    for module in (models, set_models):
        monkeypatch.setattr(module, "read_state", lambda _: made)
        monkeypatch.setattr(module, "wall_ms", lambda: NOW)
    monkeypatch.setattr(
        models, "_feeds", lambda _: {"taxonomy": "a" * 12, "reads": f"read taxonomy {'a' * 12}"}
    )
    return made


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, state: ModelsState) -> list[dict[ModelRole, Assignment | None]]:
    """What is written to the topic, which has it at once."""
    found: list[dict[ModelRole, Assignment | None]] = []

    def write(_: Settings, assignments: dict[ModelRole, Assignment | None]) -> None:
        found.append(assignments)
        for role, assignment in assignments.items():
            if assignment is None:
                state.assignments.pop(role, None)
            else:
                state.assignments[role] = assignment

    monkeypatch.setattr(set_models, "_write", write)
    return found


def report(model: ModelRef, **more: object) -> WorkerReport:
    fields = {"since": NOW - 3_600_000, "shadow": None, "refused": {}, "at": NOW - 5_000, **more}
    return WorkerReport(model.version, model.taxonomy, **fields)  # type: ignore[arg-type]


def test_people_see_a_table(state: ModelsState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live, shadow and what feeds read; for each worker its model, since when, how the shadow does, and what
    it refuses. One that has not reported lately is gone; nothing that a worker wrote moves the terminal."""
    state.assignments["live"] = Assignment(NEW, NOW - 120_000, OLD)
    state.reports["host-a"] = report(NEW, shadow={"version": "c" * 12, "agreement": 0.9375, "other": 0.21})
    state.reports["host-b"] = report(OLD, refused={"live": "b: no folder\x1b[2J 'new'"})
    state.reports["host-c"] = report(OLD, at=NOW - 91_000)
    out = Terminal()
    monkeypatch.setenv("COLUMNS", "200")
    assert models.show(load({}), out=out) == 0
    lines = out.getvalue().splitlines()
    told = f"{'b' * 12} in new, taxonomy {'a' * 12}, named 2 min ago; before it {'a' * 12} (old)"
    assert lines[0] == f"live    {told}"
    assert lines[1:3] == ["shadow  none", f"feeds   read taxonomy {'a' * 12}"]
    (first,) = [line for line in lines if line.startswith("host-a")]
    assert [word for word in first.split() if word != "–"] == [
        "host-a", "b" * 12, "60", "min", "c" * 12, "93.8%", "21.0%"
    ]  # fmt: skip
    assert "host-c" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
    assert "no folder" in out.getvalue()


def test_programs_get_json(state: ModelsState) -> None:
    """Elsewhere than on a terminal: one object, with all that the table has."""
    state.assignments["live"] = Assignment(NEW, NOW, OLD)
    state.reports["host-a"] = report(NEW)
    out = io.StringIO()
    assert models.show(load({}), out=out) == 0
    told = json.loads(out.getvalue())
    assert (told["live"]["version"], told["live"]["before"]["folder"]) == (NEW.version, "old")
    assert (told["shadow"], told["feeds"]) == (None, "a" * 12)
    assert told["workers"]["host-a"]["version"] == NEW.version


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    model = fitted.fitted().model
    model.save(tmp_path / "first")
    model.renamed([f"renamed {c.id}" for c in model.clusters]).save(tmp_path / "second")
    return load(
        {
            "WORKER_MODELS_TOPIC": "models",
            "WORKER_MODELS_FOLDER": str(tmp_path),
            "WORKER_MODEL": str(tmp_path / "first"),
        }
    )


def test_set_waits_for_the_workers(
    settings: Settings,
    state: ModelsState,
    written: list[dict[ModelRole, Assignment | None]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It ends when all workers that report run the model, with 1 when one refuses it or time is up; a model
    that was the shadow is that no more; the way back is the model before."""
    first = fitted.fitted().model
    state.reports["host-a"] = report(ModelRef(first.version, first.taxonomy, "first"))

    def second_version() -> str:
        return written[-1]["live"].model.version  # type: ignore[union-attr]

    def obeying(_: float) -> None:
        model = state.assignments["live"].model
        state.reports["host-a"] = report(model)

    monkeypatch.setattr(set_models.time, "sleep", obeying)
    assert set_models.set_live(settings, "second", wait=60) == 0
    assert written[-1]["live"].before.version == first.version  # type: ignore[union-attr]
    assert "1 of 1 workers run " + second_version() in capsys.readouterr().out
    assert set_models.set_live(settings, "second", wait=60) == 0
    assert "is live already" in capsys.readouterr().out
    state.assignments["shadow"] = Assignment(state.assignments["live"].before, 0)  # type: ignore[arg-type]
    assert set_models.roll_back(settings, wait=60) == 0
    assert set(written[-1]) == {"live", "shadow"}
    assert second_version() == first.version

    def refusing(_: float) -> None:
        wanted = state.assignments["live"].model.version
        state.reports["host-a"] = report(OLD, refused={"live": f"{wanted}: its folder is missing"})

    monkeypatch.setattr(set_models.time, "sleep", refusing)
    assert set_models.set_live(settings, str(settings.models_folder / "second"), wait=60) == 1  # type: ignore[operator]
    assert "host-a refuses: " in capsys.readouterr().err
    with pytest.raises(SettingsError, match="it cannot be its own shadow"):
        set_models.set_shadow(settings, "second")


def test_set_refuses_a_model_that_breaks_golden_images(
    settings: Settings,
    state: ModelsState,
    written: list[dict[ModelRole, Assignment | None]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is named, with where it is and where it must be; --force sets it all the same, --dry-run changes
    nothing. Without kept embeddings it says that nobody knows how many tags would change."""
    model = fitted.fitted().model
    image = fitted.grouped(seed=3)[0][0]
    label = int(model.predict(image[None]).labels[0])
    right = model.edit().add_golden("a.jpg", image, [label])
    right.save(tmp_path / "right")
    wrong = right.edit().add_golden("b.jpg", image, [label], never=True)
    wrong.save(tmp_path / "wrong")
    with pytest.raises(SettingsError, match=rf"(?s)breaks 1 of .*in #{label}, and must not be in #"):
        set_models.set_live(settings, "wrong", wait=0)
    assert set_models.set_live(settings, "right", wait=0, dry_run=True) == 0
    printed = capsys.readouterr().out
    assert "it is not known how many tags would change: embeddings are kept only where" in printed
    assert printed.endswith("nothing was changed\n")
    assert not written
    assert set_models.set_live(settings, "wrong", wait=0, force=True) == 0
    assert "breaks 1 of its golden images" in capsys.readouterr().err
    assert written[-1]["live"].model.folder == "wrong"  # type: ignore[union-attr]
    assert set_models.set_live(settings, "right", wait=0) == 0


def test_the_encoder_of_the_live_model_decides(
    settings: Settings, state: ModelsState, written: list[dict[ModelRole, Assignment | None]], tmp_path: Path
) -> None:
    """A model of another encoder than the live one's is refused before it is named; a folder that no longer
    holds the live model says nothing about its encoder, and the workers will."""
    model = fitted.fitted().model
    other = dataclasses.replace(model, encoder=dataclasses.replace(fitted.ENCODER, weights="1" * 64))
    other.save(tmp_path / "live")
    state.assignments["live"] = Assignment(ModelRef(other.version, other.taxonomy, "live"), NOW)
    with pytest.raises(StartError, match="a new encoder needs new workers"):
        set_models.set_live(settings, "second", wait=0)
    assert not written
    state.assignments["live"] = Assignment(ModelRef("c" * 12, "c" * 12, "live"), NOW)
    set_models.set_live(settings, "second", wait=0)
    assert written[-1]["live"].model.folder == "second"  # type: ignore[union-attr]


def test_what_the_commands_take() -> None:
    """`models` alone shows; a shadow is a folder or off; `set` waits a minute unless told otherwise."""
    args = parser().parse_args(["models"])
    assert args.action is None
    args = parser().parse_args(["models", "set", "next"])
    assert (args.folder, args.wait) == ("next", 60)
    assert (args.force, args.dry_run) == (False, False)
    assert parser().parse_args(["models", "set", "next", "--force", "--dry-run"]).dry_run
    assert parser().parse_args(["models", "shadow", "--off"]).off
    assert parser().parse_args(["models", "rollback", "--wait", "0s"]).wait == 0
    with pytest.raises(SystemExit):
        parser().parse_args(["models", "shadow"])
