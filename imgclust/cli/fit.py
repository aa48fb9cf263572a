"""`imgclust fit`: embeddings → a model folder."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclust.cli import loading, other_target
from imgclust.cli.fit_parameters import chosen, save
from imgclust.cli.options import Commands, add_command, add_naming_options, count_range, positive
from imgclust.cli.output import cluster_line, group_lines, note, print_figures
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.embedding.store import Embeddings
    from imgclust.model.model import ClusterModel
    from imgclust.training.fit import FitResult
    from imgclust.training.parameters import Parameters
    from imgclust.training.sample import Rows, Sample
    from imgclust.training.split import Split

PRINTED = ("taxonomy", "bounded", "other_target")  # figures that have a table of their own


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "fit",
        run,
        "find clusters in embeddings, check them on held-out images, and save them as a frozen model",
        "  imgclust fit embeddings/ -o model/\n  imgclust fit embeddings/ -o model/ --min-cluster-size 40\n"
        "  imgclust fit embeddings/ -o model/ --clusters 10..30\n"
        "  imgclust fit embeddings-of-june/ -o june/ --previous may/\n"
        "  imgclust fit embeddings/ -o food/ --within model/ 3\n"
        "  imgclust fit embeddings/ -o german/ --where \"lang = 'de' and likes >= 100\"",
    )
    command.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help="made by `imgclust embed`")
    command.add_argument("-o", "--output", required=True, type=Path, metavar="MODEL", help=("output folder"))
    command.add_argument(
        "--previous", type=Path, metavar="MODEL",
        help="continue this model's taxonomy: clusters that it already has keep their numbers and "
             "names, others get unused numbers; use the model that was last live",
    )  # fmt: skip
    command.add_argument(
        "--recipe", choices=("steady", "article"), default="steady",
        help="parameters: steady (they grow with the number of images), or article (the published "
             "recipe, for 100,000 images and more) (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--within", nargs=2, metavar=("MODEL", "CLUSTER"),
        help=("use only the images that this model puts into this cluster, to see what is inside one "
              "category"),
    )  # fmt: skip
    command.add_argument(
        "--where", metavar="CONDITION",
        help="use only the images that match this SQL condition over id, source, width, height and "
             "attributes, such as \"lang = 'de' and likes >= 100\" (needs imgclust[sql])",
    )  # fmt: skip
    command.add_argument(
        "--clusters", type=count_range, metavar="N..M",
        help="how many clusters to choose from the tree, between N and M, or exactly N; "
        "the cost of it is printed",
    )  # fmt: skip
    command.add_argument(
        "--groups", type=count_range, nargs="?", const=True, metavar="N..M",
        help="add a second level: groups of clusters, with their own numbers and names; N..M says "
             "how many (default: as many as are stable; with --previous, as in that model)",
    )  # fmt: skip
    scaled = "by default it grows with the number of images"
    command.add_argument("--n-neighbors", type=positive, metavar="N", help=f"UMAP's n_neighbors; {scaled}")
    command.add_argument(
        "--min-cluster-size", type=positive, metavar="N", help=f"HDBSCAN's min_cluster_size; {scaled}"
    )
    command.add_argument("--min-samples", type=positive, metavar="N", help=f"HDBSCAN's min_samples; {scaled}")
    command.add_argument(
        "--consensus", type=int, metavar="N",
        help="more fits, on samples of the images, that decide together what belongs together: clusters "
             "that are found again, less in \"other\", and predictions closer to the fit; 0: none, faster "
             "(default: 12 to 24 up to 10,000 training images, 0 beyond and with --previous)",
    )  # fmt: skip
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help=("set any parameter of the fit, such as min_dist=0 (can be repeated); the parameters "
              "used are printed"),
    )  # fmt: skip
    command.add_argument(
        "--parameters", type=Path, metavar="FILE.toml",
        help=("read parameters from a file with lines such as min_dist = 0.0, as --save-parameters "
              "writes it"),
    )  # fmt: skip
    command.add_argument(
        "--save-parameters",
        type=Path,
        metavar="FILE.toml",
        help=("write the parameters that were used to this file"),
    )
    command.add_argument(
        "--max-train", type=positive, default=200_000, metavar="N",
        help="train on a sample of at most N images and predict the rest (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--test-fraction",
        type=float,
        default=0.2,
        metavar="SHARE",
        help=("share of images to hold out of training, for checks (%(default)s)"),
    )
    command.add_argument(
        "--near", type=float, default=0.98, metavar="COSINE",
        help="images that are at least this similar count as copies of one (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--novel-rate", type=float, default=0.001, metavar="SHARE",
        help="share of images similar to the training images that may be called novel; if you have "
             "few, varied images, a higher rate finds more of the really novel ones (%(default)s)",
    )  # fmt: skip
    other_target.add_options(command)
    command.add_argument(
        "--duplicates", type=Path, metavar="FILE.csv",
        help="write a list of the images that were left out as copies, and of which image",
    )  # fmt: skip
    command.add_argument(
        "--engine", choices=("cpu", "cuml"), default="cpu",
        help=("cuml runs UMAP and HDBSCAN on an NVIDIA GPU, with cuML, without consensus (needs "
              "imgclust[gpu]) "
              "(%(default)s)"),
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="random seed of the split (%(default)s)")
    command.add_argument(
        "--no-names", action="store_true", help="do not name clusters (names from --previous are kept)"
    )
    command.add_argument(
        "--no-thumbnails", action="store_true", help="do not store thumbnails for the report"
    )
    add_naming_options(command)
    command.add_argument("--quiet", action="store_true", help="do not show progress")


def run(arguments: argparse.Namespace) -> int:
    from imgclust.model.model import ClusterModel
    from imgclust.support.progress import stage_lines
    from imgclust.training.cuml_fit import check_engine
    from imgclust.training.fit import fit

    if arguments.save_parameters is not None and not arguments.save_parameters.parent.is_dir():
        raise ImgclustError(
            f"the folder of --save-parameters {str(arguments.save_parameters)!a} does not exist"
        )
    wanted = chosen(arguments)  # a wrong one is refused before anything is read
    check_engine(arguments.engine)
    previous = None if arguments.previous is None else ClusterModel.load(arguments.previous)
    sample = _read(arguments)
    embeddings = sample.embeddings
    labels = other_target.labels_of(arguments.labels, embeddings.ids)
    if labels is not None and arguments.other_target is None:
        note("--labels says how right --other-target is: without a target it changes nothing")
    vocabulary = loading.vocabulary(arguments, embeddings.identity)
    result = fit(
        embeddings,
        vocabulary=vocabulary,
        names=vocabulary is not None,
        thumbnails=not arguments.no_thumbnails,
        parameters=wanted,
        recipe=arguments.recipe,
        clusters=arguments.clusters,
        groups=arguments.groups,
        test_fraction=arguments.test_fraction,
        seed=arguments.seed,
        max_train=arguments.max_train,
        previous=previous,
        near=arguments.near,
        novel_rate=arguments.novel_rate,
        other_target=arguments.other_target,
        labels=labels,
        progress=None if arguments.quiet else stage_lines(sys.stderr),
        announce=_announce,
        engine=arguments.engine,
    )
    if arguments.duplicates is not None:
        _list_duplicates(result, embeddings.ids, arguments.duplicates)
    result.model.save(arguments.output)
    if arguments.save_parameters is not None:
        save(result.parameters, arguments.save_parameters)
    _print_fitted(result, arguments.output)
    _print_rest(sample, result.model, quiet=arguments.quiet)
    if not arguments.no_thumbnails:
        _note_missing_pictures(result.model, embeddings)
    return 0


def _read(arguments: argparse.Namespace) -> Sample:
    """As many images as are trained on and held out, of those of `--where` and `--within`."""
    from imgclust.training.sample import read_sample

    return read_sample(
        arguments.embeddings, arguments.max_train, arguments.test_fraction, _chosen_rows(arguments)
    )


def _print_rest(sample: Sample, model: ClusterModel, *, quiet: bool) -> None:
    """What the model says of images that were not read for the fit."""
    from imgclust.support.progress import bar_for

    if not len(sample.left):
        return
    with bar_for("predict", None if quiet else lambda: len(sample.left)) as bar:
        images, other = sample.rest(model, bar.advance)
    print(f"{images} other images: {other / images:.1%} of them in no cluster")
    print(f"to get their clusters: imgclust predict MODEL {sample.folder} -o FILE.parquet")


def _chosen_rows(arguments: argparse.Namespace) -> Rows | None:
    """Numbers of the images of `--where` and `--within`; None without."""
    from imgclust.model.model import ClusterModel
    from imgclust.searching import subset

    chosen = None
    if arguments.where is not None:
        chosen = subset.rows_where(arguments.embeddings, arguments.where)
    if arguments.within is not None:
        folder, cluster = arguments.within
        try:
            number = int(cluster)
        except ValueError:
            raise ImgclustError(
                f"--within takes a model and a cluster's number, got {cluster!a:.60}"
            ) from None
        chosen = subset.rows_within(arguments.embeddings, ClusterModel.load(folder), number, chosen)
    if chosen is not None:
        print(f"{len(chosen)} images chosen")
    return chosen


def _note_missing_pictures(model: ClusterModel, embeddings: Embeddings) -> None:
    """A report without pictures should surprise nobody: `embed` keeps paths as it was given them."""
    typical = {id_ for cluster in model.clusters if not cluster.is_class for id_ in cluster.exemplars}
    missing = typical - set(model.thumbnails)
    if not missing:
        return
    example = next(s for i, s in zip(embeddings.ids, embeddings.sources, strict=True) if i in missing)
    remedy = (
        "`fit` does not read URLs; embed files to get them"
        if "://" in example
        else "run `fit` in the folder in which `embed` was run, or embed from full paths"
    )
    note(
        f"reports will lack {len(missing)} of {len(typical)} typical pictures, which cannot be read here, "
        f"like {example[:200]!a}: {remedy}"
    )


def _list_duplicates(result: FitResult, ids: Sequence[str], path: Path) -> None:
    """Which image joined which; `exact` is 1 for files that are equal byte for byte."""
    from imgclust.support.spreadsheets import guard

    found = result.duplicates
    pairs = zip(found.duplicate, found.original, found.cosine, found.exact, strict=True)
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["duplicate", "kept", "cosine", "exact"])
            for duplicate, kept, cosine, exact in pairs:
                writer.writerow([guard(ids[duplicate]), guard(ids[kept]), f"{cosine:.4f}", int(exact)])
    except OSError as error:
        raise ImgclustError(f"the list {str(path)!r} cannot be written: {error.strerror}") from None


def _announce(parameters: Parameters, split: Split) -> None:
    print(f"training on {len(split.train)} images, {len(split.test)} held out; parameters:")
    for name, value in parameters.to_dict().items():
        print(f"  {name} = {value}")


def _print_fitted(result: FitResult, folder: Path) -> None:
    from imgclust.comparing.words import golden_text, names_of

    model = result.model
    print(f"model {model.version} in {folder}: {len(model.clusters)} clusters")
    if result.continuation:
        from imgclust.model.taxonomy import RETIRED
        from imgclust.report.taxonomy import table

        names = {cluster.id: cluster.name for cluster in model.clusters}
        for line in table(result.continuation, model.taxonomy, names):
            print(line)
        for kept in result.continuation.kept:
            if kept.has_moved:
                note(
                    f"cluster {kept.number} has moved far from the images that its number was first given to "
                    f"({kept.meaning:.2f} now, 1 at first; below {RETIRED:.0f} it gets a new number): "
                    "look at its pictures in the report"
                )
    else:
        for cluster in sorted(model.clusters, key=lambda c: -c.size):
            print(cluster_line(cluster))
    for line in group_lines(model):
        print(line)
    if found := result.groups:
        print(f"groups: {len(found.kept)} kept, {len(found.new)} new, {len(found.retired)} retired")
    if result.parameters.levels == 2 and len(model.groups) < max(1, result.parameters.min_groups):
        note(f"{len(model.groups)} groups: no other nodes of the tree contain two clusters and are stable")
    if bounded := result.figures.get("bounded"):
        _print_bounded(bounded)
    print_figures({name: value for name, value in result.figures.items() if name not in PRINTED})
    if "other_target" in result.figures:
        other_target.print_offers(result.figures)
    for broken in model.check_golden():
        note(f"golden image {golden_text(broken, names_of(model))}")


def _print_bounded(bounded: Mapping[str, Any]) -> None:
    """What it cost to have as many clusters as were wanted."""
    least, most, chosen, default = (bounded[name] for name in ("least", "most", "chosen", "default"))
    wanted = f"{least}" if least == most else f"{least} to {most}"
    if chosen == default:
        print(f"{wanted} clusters requested: the default choice has {default['clusters']}")
        return
    if chosen["clusters"] < least:
        note(
            f"{wanted} clusters requested, but the tree has at most {chosen['clusters']}: a smaller "
            "--min-cluster-size gives more"
        )
    worth = f", {chosen['value'] / default['value']:.0%} of its value" if default["value"] > 0 else ""
    print(
        f"{wanted} clusters requested; compared with the default choice of {default['clusters']}{worth}, "
        f'"other" {default["other"]:.1%} → {chosen["other"]:.1%}, '
        f"mean stability {default['stability']:.2f} → {chosen['stability']:.2f}"
    )
