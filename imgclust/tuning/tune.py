"""A search for the parameters of a fit, by Optuna: resumable, with one UMAP for each setting of UMAP.

A trial clusters points that are there already, so it costs a fraction of a fit. The images are those that a
fit with the same seed trains on: what is found is what `fit` gives with these parameters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imgclust.errors import FitError, ImgclustError
from imgclust.model.freeze import chosen_clusters, tree_arrays
from imgclust.support.tables import appearing
from imgclust.training.cost import affordable
from imgclust.training.dedupe import NEAR, find_duplicates
from imgclust.training.given import Given
from imgclust.training.ordering import content_order
from imgclust.training.parameters import MIN_IMAGES, Parameters
from imgclust.training.selection import select
from imgclust.training.split import split_rows
from imgclust.training.umap_hdbscan import fit_hdbscan, fit_umap
from imgclust.tuning.aims import Aim, TrialFigures, score
from imgclust.tuning.space import default_trial, suggested, umap_settings
from imgclust.types import OTHER, Floats

if TYPE_CHECKING:
    import optuna

    from imgclust.embedding.store import Embeddings

TEST_FRACTION = 0.2  # that a fit holds out by default
JOURNAL = "trials.log"
NOTHING = TrialFigures(0, 1.0, 0.0, 0.0)  # no cluster was found
Labels = Sequence[str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class TuningTrial:
    """One choice of parameters; `score` says how well it meets the aims, 0..1."""

    number: int
    parameters: Parameters
    figures: TrialFigures
    score: float


class Tuning:
    """A search in a folder; what was tried there before is gone on from.

    Args:
        folder: of this search: its trials, and the points of each setting of UMAP.
        rows: float32 (n, d), unit-norm: the training images.
        labels: of these, where there are any.
        aims: what is searched for.
        umaps: settings of UMAP at most.
        seed: of the search.

    Raises:
        ImgclustError: Optuna is not installed, or the folder holds a search of something else.
    """

    def __init__(
        self,
        folder: Path,
        rows: Floats,
        labels: Labels | None,
        aims: Sequence[Aim],
        *,
        umaps: int,
        seed: int,
    ) -> None:
        self._folder, self._rows, self._labels, self._aims = folder, rows, labels, tuple(aims)
        self._settings = umap_settings(len(rows), umaps, seed)
        self._study = _study(folder, seed)
        what = {
            "images": hashlib.sha256(rows.tobytes()).hexdigest(),
            "aims": sorted(map(str, aims)),
            "labels": None if labels is None else hashlib.sha256(json.dumps(labels).encode()).hexdigest(),
            "settings": [p.to_dict() for p in self._settings],
        }
        known = self._study.user_attrs.get("what")
        if known is None:
            self._study.set_user_attr("what", what)
        elif known != json.loads(json.dumps(what)):
            other = next(name for name in what if known.get(name) != json.loads(json.dumps(what[name])))
            raise ImgclustError(
                f"{str(folder)!a} holds a search with other {other}: continue with the same, or give another "
                "folder"
            )

    def run(
        self,
        trials: int,
        progress: Callable[[TuningTrial, int], None] | None = None,
        announce: Callable[[Parameters], None] | None = None,
    ) -> list[TuningTrial]:
        """Try until there are so many trials, those of earlier calls included; the best first.

        Args:
            progress: called with each trial, and how many there are.
            announce: called with a setting of UMAP before it is fitted, which takes long.

        Raises:
            FitError: there is not enough memory for UMAP.
        """
        done = len(self.trials())
        if not done:
            self._study.enqueue_trial(default_trial(len(self._rows)))
        for count in range(done + 1, trials + 1):
            trial = self._study.ask()
            setting, parameters = suggested(trial, self._settings, len(self._rows))
            found = self._measured(self._points(setting, announce), parameters)
            value = score(self._aims, found)
            trial.set_user_attr("figures", found.to_dict())
            trial.set_user_attr("parameters", parameters.to_dict())
            self._study.tell(trial, value)
            if progress:
                progress(TuningTrial(trial.number, parameters, found, value), count)
        return self.trials()

    def trials(self) -> list[TuningTrial]:
        """All that were completed, the best first; of equals the earlier one."""
        found = [
            TuningTrial(
                trial.number,
                Parameters(**trial.user_attrs["parameters"]),
                TrialFigures(**trial.user_attrs["figures"]),
                float(trial.value),
            )
            for trial in self._study.trials
            if trial.value is not None
        ]
        return sorted(found, key=lambda trial: (-trial.score, trial.number))

    def _measured(self, points: Floats, p: Parameters) -> TrialFigures:
        clusterer = fit_hdbscan(points, p, prediction_data=False, validity=True)
        try:
            chosen = select(clusterer, points, p)
        except FitError:
            return dataclasses.replace(NOTHING, ami=None if self._labels is None else 0.0)
        labels = chosen_clusters({"points": points, **tree_arrays(clusterer)}, chosen.nodes)["labels"]
        clusterer.labels_ = labels.astype(np.int64)
        inside = labels != OTHER
        return TrialFigures(
            clusters=len(chosen.nodes),
            other=round(float(1 - inside.mean()), 4),
            stability=round(float(chosen.stability[labels[inside]].mean()), 4) if inside.any() else 0.0,
            validity=round(float(clusterer.relative_validity_), 4),
            ami=_ami(labels, self._labels),
        )

    def _points(self, setting: int, announce: Callable[[Parameters], None] | None) -> Floats:
        """The points of a setting of UMAP, made once."""
        file, p = self._folder / f"points-{setting}.npy", self._settings[setting]
        if not file.exists():
            affordable(len(self._rows), self._rows, p)
            if announce:
                announce(p)
            with appearing(file) as opened:
                np.save(opened, fit_umap(self._rows, p).embedding_)
        points: Floats = np.load(file, allow_pickle=False)
        return points


def _ami(labels: npt.NDArray[Any], given: Labels | None) -> float | None:
    if given is None:
        return None
    from sklearn.metrics import adjusted_mutual_info_score

    known = [i for i, label in enumerate(given) if label is not None]
    truth = [given[i] for i in known]
    return round(float(adjusted_mutual_info_score(truth, labels[known])), 4)


def _study(folder: Path, seed: int) -> optuna.Study:
    """The journal's study; its sampler draws on where the last one ended."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise ImgclustError("the search needs Optuna: pip install 'imgclust[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        study = optuna.create_study(
            study_name="imgclust", storage=storage, direction="maximize", load_if_exists=True
        )
    except OSError as error:
        raise ImgclustError(f"the search cannot be kept in {str(folder)!a}: {error.strerror}") from None
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def training_rows(
    embeddings: Embeddings | Floats,
    *,
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
    max_train: int = 200_000,
) -> npt.NDArray[np.int64]:
    """Rows that a fit with the same seed trains on, in its order.

    Raises:
        FitError: too few images.
    """
    given = Given.of(embeddings, None, None)
    order = content_order(given.rows, given.ids, given.digests, given.hashes)
    given = given.taken(order)
    duplicates = find_duplicates(given.rows, given.digests, hashes=given.hashes, threshold=NEAR)
    split = split_rows(duplicates.kept, test_fraction=test_fraction, max_train=max_train, seed=seed)
    if len(split.train) < MIN_IMAGES:
        raise FitError(
            f"{len(split.train)} images to train on are too few to search parameters for: give at least "
            f"{MIN_IMAGES}"
        )
    return order[split.train]
