"""Does a fit find the same clusters again? For any labelled pictures, beside BERTopic's settings and EVoC.

    python -m benchmarks.steadiness                       the clip-art example
    python -m benchmarks.steadiness --data digits         scikit-learn's handwritten digits
    python -m benchmarks.steadiness --data FOLDER/        pictures in folders by category, through `mini`
    python -m benchmarks.steadiness --fits 0 --kept 3     only `fit --previous`: who keeps a number
    python -m benchmarks.steadiness --assigned            `fit --other-target`, too: who is assigned rightly

Each fit is on a fresh random 80 % of the pictures without duplicates, with another random state. *matched*:
of all pictures, those with the same label in two fits after one-to-one matching of clusters ("other" with
"other"), the mean over all pairs of fits. *AMI* is over pictures that are not in "other", *AMI (all)* counts
"other" as one more cluster. *gap*: training pictures that are predicted otherwise than they were fitted.
*group_…*: the same of the groups above the clusters; pictures in no group count as "other" does. Then, by the
*stability* that a fit gives its clusters: how many have it, the share of pictures in them, and *found_again*,
how many of them another fit has, as a cluster with a Jaccard index above ½.
*kept*: of the pictures that are in a cluster in both, those whose number a fit with `previous` keeps, on the
same pictures split otherwise, where a third of the pictures is new, and where an eighth of the categories is
new: there *kept* is of the others' pictures, and *new* is the share of their own that get a new number.
*retired*: of the same pictures as *kept*, those whose number is gone; *to_other*, which *kept* leaves out: of
those in a cluster before, those in "other" now. EVoC is measured where it is
installed; it has no prediction, so only pictures that two fits share are compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score

from benchmarks.clipart import Data, clipart, digits
from benchmarks.common import FITTED
from imgclust.embedding.store import read_embeddings
from imgclust.training.dedupe import find_duplicates
from imgclust.training.fit import fit
from imgclust.training.parameters import Parameters

UNKNOWN = -2  # of pictures that a method says nothing of
STABILITIES = (0.6, 0.8, 0.9)  # what is told apart by them


@dataclasses.dataclass(frozen=True)
class Found:
    """The label of each picture, and what only our own fits have.

    Attributes:
        groups: the group of each picture.
        stability: of each cluster.
    """

    labels: np.ndarray
    gap: float | None = None
    groups: np.ndarray | None = None
    stability: np.ndarray | None = None


def folder(path: Path) -> Data:
    """Pictures in folders by category, through the `mini` encoder; embedded once."""
    from imgclust.embedding.embed import embed
    from imgclust.embedding.encoder import load_encoder

    made = FITTED / f"{path.resolve().name}-mini"
    embed([path], made, load_encoder("mini"), progress=False)
    found = read_embeddings(made)
    return Data(found.vectors, np.array([Path(source).parent.name for source in found.sources]))


def named_data(name: str) -> Data:
    """The example's pictures, the digits, or those of a folder."""
    return {"clipart": clipart, "digits": digits}.get(name, lambda: folder(Path(name)))()


def different(data: Data) -> Data:
    """Without duplicates; the rows as models keep them."""
    kept = find_duplicates(data.rows).kept
    return Data(data.rows[kept].astype(np.float16).astype(np.float32), data.categories[kept])


def with_defaults(data: Data, train: np.ndarray, seed: int, consensus: int | None = None) -> Found:
    """`imgclust.training.fit` as it is; of what it was not fitted on, its predictor's labels."""
    parameters = Parameters.for_size(len(train))
    if consensus is not None:
        parameters = dataclasses.replace(parameters, consensus=consensus)
    parameters = dataclasses.replace(parameters, random_state=seed)
    result = fit(
        data.rows[train], parameters=parameters, groups=True, test_fraction=0, thumbnails=False, seed=seed
    )
    labels = result.model.predict(data.rows).labels
    labels[train] = result.labels
    gap = 1 - result.figures["predicted_as_fitted"]["share"]
    stability = np.array([cluster.stability for cluster in result.model.clusters])
    return Found(labels, gap, result.model.level[labels], stability)


def without_consensus(data: Data, train: np.ndarray, seed: int) -> Found:
    """The same by one UMAP."""
    return with_defaults(data, train, seed, consensus=0)


def with_bertopic_settings(data: Data, train: np.ndarray, seed: int) -> Found:
    """What BERTopic builds when it is asked for nothing."""
    import hdbscan
    import umap

    reducer = umap.UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=seed)
    points = reducer.fit_transform(data.rows[train])
    clusterer = hdbscan.HDBSCAN(min_cluster_size=10, prediction_data=True).fit(points)
    labels = np.empty(len(data.rows), int)
    labels[train] = clusterer.labels_
    rest = np.setdiff1d(np.arange(len(data.rows)), train)
    labels[rest] = hdbscan.approximate_predict(clusterer, reducer.transform(data.rows[rest]))[0]
    return Found(labels)


def with_evoc(data: Data, train: np.ndarray, seed: int) -> Found:
    """EVoC's defaults."""
    from evoc import EVoC

    labels = np.full(len(data.rows), UNKNOWN)
    labels[train] = EVoC(random_state=seed).fit_predict(data.rows[train])
    return Found(labels)


METHODS: dict[str, Callable[[Data, np.ndarray, int], Found]] = {
    "imgclust": with_defaults,
    "imgclust without consensus": without_consensus,
    "BERTopic's settings": with_bertopic_settings,
    "EVoC": with_evoc,
}


def matched(one: np.ndarray, two: np.ndarray) -> float:
    """The share of pictures with the same label, after one-to-one matching; of those that both know."""
    known = (one != UNKNOWN) & (two != UNKNOWN)
    table = np.zeros((one.max() + 2, two.max() + 2))
    np.add.at(table, (one[known] + 1, two[known] + 1), 1)
    rows, columns = linear_sum_assignment(-table[1:, 1:])
    return float((table[1:, 1:][rows, columns].sum() + table[0, 0]) / known.sum())


def fits_of(data: Data, method: str, fits: int) -> list[Found]:
    found = []
    for number in range(fits):
        order = np.random.default_rng(100 + number).permutation(len(data.rows))
        train = np.sort(order[: round(0.8 * len(order))])
        found.append(METHODS[method](data, train, number + 1))
    return found


def steadiness(data: Data, found: list[Found]) -> dict[str, float]:
    figures = agreement(data, [one.labels for one in found])
    gaps = [one.gap for one in found if one.gap is not None]
    if gaps:
        figures["gap"] = float(np.mean(gaps))
    groups = agreement(data, [one.groups for one in found if one.groups is not None])
    return figures | {f"group_{name}": value for name, value in groups.items()}


def agreement(data: Data, found: list[np.ndarray]) -> dict[str, float]:
    """How far labels of the same pictures agree with the categories, and with each other."""
    if not found:
        return {}
    figures = [
        (
            adjusted_mutual_info_score(data.categories[labels >= 0], labels[labels >= 0]),
            adjusted_mutual_info_score(data.categories[labels > UNKNOWN], labels[labels > UNKNOWN]),
            float((labels == -1).sum() / (labels > UNKNOWN).sum()),
            float(labels.max() + 1),
        )
        for labels in found
    ]
    ami, ami_all, other, count = np.mean(figures, axis=0)
    pairs = [matched(one, two) for one, two in itertools.combinations(found, 2)]
    return {"ami": ami, "ami_all": ami_all, "other": other, "matched": np.mean(pairs), "count": count}


def found_again(found: list[Found]) -> Iterator[dict[str, float]]:
    """By stability: clusters of a fit, the share of pictures in them, how many of them another fit has."""
    bounds = [0, *STABILITIES, 1.01]
    for least, most in itertools.pairwise(bounds):
        again, share = [], []
        for one, two in itertools.permutations(found, 2):
            if one.stability is None:
                return
            some = np.flatnonzero((one.stability >= least) & (one.stability < most))
            again += (jaccard(one.labels, two.labels).max(axis=1)[some] > 0.5).tolist()
            share.append(np.isin(one.labels, some).mean())
        if again:
            yield {
                "stability_from": least,
                "clusters": len(again) / len(share),
                "pictures": float(np.mean(share)),
                "found_again": float(np.mean(again)),
            }


def jaccard(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The index of each cluster of one with each of the other."""
    table = np.zeros((one.max() + 2, two.max() + 2))
    np.add.at(table, (one + 1, two + 1), 1)
    return (table / (table.sum(axis=1)[:, None] + table.sum(axis=0) - table))[1:, 1:]


def kept(data: Data, pair: int) -> Iterator[dict[str, object]]:
    """Three fits that continue another: on the same pictures, with a third new, with new categories."""
    order = np.random.default_rng(pair).permutation(len(data.rows))
    size, everything = round(0.75 * len(order)), np.arange(len(order))
    kinds = np.unique(data.categories)
    new = np.isin(data.categories, np.random.default_rng(pair).permutation(kinds)[: max(2, len(kinds) // 8)])
    cases = {
        "split otherwise": (order[:size], order[:size]),
        "a third new": (order[:size], order[-size:]),
        "new categories": (everything[~new], everything),
    }
    previous, fitted_on = None, np.empty(0, int)
    for name, (first, second) in cases.items():
        if previous is None or not np.array_equal(first, fitted_on):
            previous, fitted_on = fit(data.rows[first], seed=pair, thumbnails=False).model, first
        model = fit(data.rows[second], seed=pair + 50, thumbnails=False, previous=previous).model
        before, after = (one.predict(data.rows).labels for one in (previous, model))
        some = ~new if name == "new categories" else np.ones(len(order), bool)
        line = {
            **numbers_kept(before[some], after[some]),
            "other_before": (before < 0).mean(),
            "other": (after < 0).mean(),
            "ami": adjusted_mutual_info_score(data.categories[after >= 0], after[after >= 0]),
            "ami_all": adjusted_mutual_info_score(data.categories, after),
        }
        if name == "new categories":
            line["new"] = (after[new] >= previous.next_number).mean()
        yield {"case": name, **{key: round(float(value), 3) for key, value in line.items()}}


def numbers_kept(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """What became of the numbers of pictures, -1 is "other"; see above."""
    was, both = before >= 0, (before >= 0) & (after >= 0)
    gone = ~np.isin(before[both], after)
    return {
        "kept": float((before == after)[both].mean()),
        "retired": float(gone.mean()),
        "to_other": float((after[was] < 0).mean()),
    }


def assigned(data: Data) -> Iterator[dict[str, object]]:
    """How right `other_target` is, by labels and by refits, in one fit each of the same split."""
    for labels in (data.categories.tolist(), None):
        found = fit(data.rows, thumbnails=False, other_target=0.1, labels=labels).figures["other_target"]
        for offer in found["offers"]:
            yield {"by": found["judged_by"], **offer, "right_in_clusters": found["right_in_clusters"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="clipart", help="clipart, digits, or a folder (%(default)s)")
    parser.add_argument("--fits", type=int, default=6, help="of each method (%(default)s); 0: leave them out")
    parser.add_argument("--method", choices=list(METHODS), action="append", help="one of them; else all")
    parser.add_argument(
        "--kept", nargs="?", type=int, default=0, const=2, metavar="PAIRS",
        help="measure `previous`, too, in so many pairs (%(const)s)",
    )  # fmt: skip
    parser.add_argument("--assigned", action="store_true", help="measure `other_target`, too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    data = different(named_data(arguments.data))
    print(
        json.dumps({"data": arguments.data, "pictures": len(data.rows), "fits": arguments.fits}), flush=True
    )
    for method in (arguments.method or METHODS) if arguments.fits else ():
        if method == "EVoC" and importlib.util.find_spec("evoc") is None:
            print(json.dumps({"method": method, "left out": "pip install evoc"}), flush=True)
            continue
        found = fits_of(data, method, arguments.fits)
        for line in (steadiness(data, found), *found_again(found)):
            print(json.dumps({"method": method, **{k: round(v, 3) for k, v in line.items()}}), flush=True)
    for pair in range(arguments.kept):
        for line in kept(data, pair):
            print(json.dumps({"pair": pair, **line}), flush=True)
    for line in assigned(data) if arguments.assigned else ():
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
