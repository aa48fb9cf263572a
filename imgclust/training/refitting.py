"""Whole fits on samples of the images: what a consensus, and the judge of `other_target`, are made of.

Also a program, `python -m imgclust.training.refitting FOLDER NUMBER...`, which makes some of the refits of a
job that another process wrote there, tells on its standard output how far each is, and leaves their clusters.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.errors import FitError
from imgclust.model.freeze import chosen_clusters, tree_arrays
from imgclust.training.before import Before
from imgclust.training.borders import put_borders
from imgclust.training.coassociation import Refit
from imgclust.training.dedupe import Rows
from imgclust.training.parameters import Parameters, consensus_size
from imgclust.training.selection import select
from imgclust.training.umap_hdbscan import fit_hdbscan, fit_umap
from imgclust.types import OTHER, Floats, Ints


def fit_sample(
    rows: Floats,
    p: Parameters,
    progress: Callable[[float], None] | None = None,
    before: Before | None = None,
) -> tuple[Ints, npt.NDArray[Any]]:
    """What a fit of these rows puts where, int32 (n,), and its condensed tree.

    All are in "other" where it finds no cluster.
    """
    points = fit_umap(rows, p, progress, before).embedding_
    clusterer = fit_hdbscan(points, p, prediction_data=False)
    put_borders(clusterer, before, p)
    tree: npt.NDArray[Any] = clusterer._condensed_tree
    try:
        nodes = select(clusterer, points, p, before=before).nodes
    except FitError:
        return np.full(len(rows), OTHER, np.int32), tree
    labels: Ints = chosen_clusters({"points": points, **tree_arrays(clusterer)}, nodes)["labels"]
    return labels, tree


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Refits to be made: each depends on this and on its number alone, whatever process makes it.

    Attributes:
        rows: float32 (n, d), unit-norm, of float16 values.
        parameters: of the fit.
        before: what the previous model says of the rows.
    """

    rows: Floats
    parameters: Parameters
    before: Before | None = None

    def refit(self, number: int, progress: Callable[[float], None] | None = None) -> Refit:
        """On four fifths of the images, with sizes that are smaller by as much."""
        n, p = len(self.rows), self.parameters
        m = consensus_size(n)
        some = np.sort(np.random.default_rng([p.random_state, number]).permutation(n)[:m])
        own = p.scaled(m / n).alone(p.random_state + 1 + number)
        before = self.before and _part(self.before, some)
        return Refit(some, *fit_sample(self.rows[some], own, progress, before))

    def write(self, folder: Path) -> None:
        """For another process. Raises FitError if it cannot be written."""
        try:
            np.save(folder / "rows.npy", self.rows)
            (folder / "parameters.json").write_text(json.dumps(self.parameters.to_dict()), "utf-8")
            if self.before is not None:
                fields = {name: getattr(self.before, name) for name in self.before.__slots__}
                np.savez(folder / "before.npz", **fields)
        except OSError as error:
            raise FitError(
                f"{self.rows.nbytes / 1e6:.0f} MB for fits in other processes cannot be written to "
                f"{str(folder)!a}: {error.strerror}; TMPDIR names another folder, consensus = 0 needs none"
            ) from None

    @classmethod
    def read(cls, folder: Path) -> Job:
        parameters = Parameters(**json.loads((folder / "parameters.json").read_text("utf-8")))
        file = folder / "before.npz"
        before = Before(**np.load(file)) if file.exists() else None
        return cls(np.load(folder / "rows.npy"), parameters, before)


def _part(before: Before, rows: Rows) -> Before:
    return Before(**{name: getattr(before, name)[rows] for name in before.__slots__})


def main(folder: Path, numbers: list[int]) -> None:
    job = Job.read(folder)
    for number in numbers:
        made = job.refit(number, lambda share, number=number: print(number, share, flush=True))  # type: ignore[misc]
        np.savez(folder / f"{number}.npz", rows=made.rows, labels=made.labels, tree=made.tree)
        print(number, 1.0, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(number) for number in sys.argv[2:]])
