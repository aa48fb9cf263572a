"""The search: it goes on where it ended, makes each UMAP once, and shows what it found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optuna", reason="needs the extra `tune`: pip install 'imgclust[tune]'")

from imgclust.cli.arguments import main
from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import ImgclustError
from imgclust.training.fit import fit
from imgclust.training.parameters import Parameters
from imgclust.training.sample import read_sample
from imgclust.training.split import Split
from imgclust.tuning import tradeoffs, tune
from imgclust.tuning.aims import Aim
from imgclust.tuning.space import umap_settings
from imgclust.tuning.tune import Tuning, training_rows
from tests.support import fitted

AIMS = [Aim.parse("clusters=6"), Aim.parse("other"), Aim.parse("ami")]


class _Reducer:
    def __init__(self, rows: np.ndarray) -> None:
        self.embedding_ = rows[:, :5].copy()  # UMAP would take seconds; the groups are apart here too


@pytest.fixture
def umaps(monkeypatch: pytest.MonkeyPatch) -> list[Parameters]:
    """The settings of UMAP that were fitted."""
    made: list[Parameters] = []

    def fit_umap(rows: np.ndarray, p: Parameters) -> _Reducer:
        made.append(p)
        return _Reducer(rows)

    monkeypatch.setattr(tune, "fit_umap", fit_umap)
    return made


def search(folder: Path, aims: list[Aim] = AIMS) -> Tuning:
    rows, group = fitted.grouped(groups=6, each=20)
    return Tuning(folder, rows, [f"g{one}" for one in group], aims, umaps=2, seed=0)


def test_a_search_goes_on_where_it_ended(tmp_path: Path, umaps: list[Parameters]) -> None:
    """Six trials, then eight in all; no UMAP is made twice; the defaults are tried first."""
    first = search(tmp_path).run(6)
    count = len(umaps)
    told: list[int] = []
    again = search(tmp_path).run(8, lambda trial, number: told.append(number))
    assert told == [7, 8]
    assert len(again) == 8
    assert {trial.number: trial for trial in first}.items() <= {t.number: t for t in again}.items()
    assert len(umaps) == len(set(umaps)) <= 2
    assert count <= len(umaps)
    assert [t.score for t in again] == sorted((t.score for t in again), reverse=True)
    defaults = next(trial for trial in again if trial.number == 0).parameters
    assert defaults.n_neighbors == Parameters.for_size(120).n_neighbors
    assert search(tmp_path).run(5) == again


def test_another_search_needs_another_folder(tmp_path: Path, umaps: list[Parameters]) -> None:
    """Scores of another aim would be compared with these."""
    search(tmp_path).run(1)
    with pytest.raises(ImgclustError, match="other aims"):
        search(tmp_path, [Aim.parse("stability")])


def test_what_was_found_is_shown(tmp_path: Path, umaps: list[Parameters]) -> None:
    """A row for each trial, the best first; a dot for each on every plot; the page loads nothing."""
    found = search(tmp_path).run(4)
    rows = tradeoffs.records(found, AIMS)
    assert [row["trial"] for row in rows] == [trial.number for trial in found]
    assert all(set(row) == set(tradeoffs.COLUMNS) for row in rows)
    page = tradeoffs.page(found, AIMS)
    assert page.count("<circle") == 4 * page.count("<svg")
    assert page.count('class="best"') == page.count("<svg") == len(tradeoffs.AXES)
    assert "http://" not in page
    assert "https://" not in page
    assert len(list(tradeoffs.lines(found, AIMS))) == 5


class _Enough(Exception):
    pass


def test_the_images_are_those_of_the_fit() -> None:
    """In the same numbers as a fit says them, before its long part begins."""
    rows, _ = fitted.grouped()
    trained: list[int] = []

    def announce(parameters: Parameters, split: Split) -> None:
        trained.extend(split.train.tolist())
        raise _Enough

    with pytest.raises(_Enough):
        fit(rows, seed=3, announce=announce)
    assert sorted(training_rows(rows, seed=3).tolist()) == sorted(trained)


def test_of_a_large_folder_it_is_the_fits_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same `--max-train`; no other embeddings are read."""
    rows, _ = fitted.grouped()
    with EmbeddingsWriter(tmp_path / "embeddings", fitted.ENCODER) as writer:
        for i, row in enumerate(rows):
            writer.append(id=f"{i}", source="", embedding=row, width=1, height=1, sha256=None)
    trained: list[int] = []

    def announce(parameters: Parameters, split: Split) -> None:
        trained.extend(split.train.tolist())
        raise _Enough

    with pytest.raises(_Enough):
        fit(tmp_path / "embeddings", max_train=80, seed=3, announce=announce)
    sample = read_sample(tmp_path / "embeddings", 80, 0.2).embeddings
    assert 40 < len(trained) <= 80
    searched: list[np.ndarray] = []

    def begin(_: object, folder: Path, rows: np.ndarray, *others: object, **options: object) -> None:
        searched.append(rows)
        raise _Enough

    monkeypatch.setattr(Tuning, "__init__", begin)
    command = ["tune", str(tmp_path / "embeddings"), "-o", str(tmp_path), "--max-train", "80", "--seed", "3"]
    assert main(command) == 1
    assert sorted(map(bytes, searched[0])) == sorted(map(bytes, sample.vectors[trained]))


def test_settings_of_umap() -> None:
    """The default is the first, all differ, and each can be fitted."""
    settings = umap_settings(120, 6, 0)
    assert settings[0] == Parameters.for_size(120).replaced({"consensus": 0})
    assert len(set(settings)) == 6
    for setting in settings:
        setting.check(120)
    assert len(umap_settings(120, 1000, 0)) == 18
