"""What each command of `imgclust` does; heavy parts are imported by the command that needs them."""

from __future__ import annotations

import argparse
import csv
import ipaddress
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclust.errors import EncoderError, ImgclustError

if TYPE_CHECKING:
    from imgclust.embedding.embed import EmbedSummary, Failed
    from imgclust.embedding.encoder import TorchEncoder
    from imgclust.embedding.store import Embeddings
    from imgclust.images.reader import Reader
    from imgclust.model.model import ClusterModel
    from imgclust.tagging.rows import Row
    from imgclust.training.fit import FitResult, Split
    from imgclust.training.parameters import Parameters
    from imgclust.types import EncoderIdentity

SHOWN_FAILURES = 5


def embed(arguments: argparse.Namespace) -> int:
    from imgclust.embedding.embed import embed
    from imgclust.embedding.encoder import load_encoder

    encoder = load_encoder(
        arguments.encoder,
        device=arguments.device,
        precision=arguments.precision,
        weights=arguments.weights,
        max_batch=arguments.batch,
    )
    summary = embed(
        arguments.images,
        arguments.output,
        encoder,
        batch=arguments.batch,
        workers=arguments.workers,
        progress=not arguments.quiet,
        reader=_reader(arguments),
    )
    _print_embedded(summary)
    if summary.embedded or summary.present:
        return 0
    raise ImgclustError(f"no image was embedded; see the counts above and {summary.folder}")


def _print_embedded(summary: EmbedSummary) -> None:
    from imgclust.embedding.embed import FAILED

    rate = f" ({summary.images_per_second:.1f} images/s)" if summary.embedded else ""
    print(f"embedded {summary.embedded} images in {summary.seconds:.1f} s{rate} into {summary.folder}")
    if summary.present:
        print(f"  {summary.present} were there before")
    for reason, count in summary.skipped.most_common():
        print(f"  {count} skipped: {reason}")
    for code, count in summary.failed.most_common():
        print(f"  {count} failed: {code}; see {summary.folder / FAILED}")
    if summary.needs_heif:
        from imgclust.images.containers import HEIF_HINT

        print(f"  {summary.needs_heif} of them are HEIC photos; to read them: {HEIF_HINT}")


def fit(arguments: argparse.Namespace) -> int:
    from imgclust.embedding.store import read_embeddings
    from imgclust.model.model import ClusterModel
    from imgclust.support.progress import stage_lines
    from imgclust.training.fit import fit

    previous = None if arguments.previous is None else ClusterModel.load(arguments.previous)
    embeddings = read_embeddings(arguments.embeddings)
    chosen = {
        name: value
        for name in ("n_neighbors", "min_cluster_size", "min_samples")
        if (value := getattr(arguments, name)) is not None
    }
    result = fit(
        embeddings,
        vocabulary=_vocabulary(arguments, embeddings.identity),
        thumbnails=not arguments.no_thumbnails,
        parameters=chosen,
        test_fraction=arguments.test_fraction,
        seed=arguments.seed,
        max_train=arguments.max_train,
        previous=previous,
        near=arguments.near,
        novel_rate=arguments.novel_rate,
        progress=None if arguments.quiet else stage_lines(sys.stderr),
        announce=_announce,
    )
    if arguments.duplicates is not None:
        _list_duplicates(result, embeddings.ids, arguments.duplicates)
    result.model.save(arguments.output)
    _print_fitted(result, arguments.output)
    if not arguments.no_thumbnails:
        _note_missing_pictures(result.model, embeddings)
    return 0


def _note_missing_pictures(model: ClusterModel, embeddings: Embeddings) -> None:
    """A report without pictures should surprise nobody: `embed` keeps paths as it was given them."""
    typical = {id_ for cluster in model.clusters for id_ in cluster.exemplars}
    missing = typical - set(model.thumbnails)
    if not missing:
        return
    example = next(s for i, s in zip(embeddings.ids, embeddings.sources, strict=True) if i in missing)
    remedy = (
        "`fit` reads no URLs; embed files to have them"
        if "://" in example
        else "run `fit` in the folder in which `embed` was run, or embed from full paths"
    )
    _note(
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
    model = result.model
    print(f"model {model.version} in {folder}: {len(model.clusters)} clusters")
    if result.continuation:
        from imgclust.report.taxonomy import table

        names = {cluster.id: cluster.name for cluster in model.clusters}
        for line in table(result.continuation, model.taxonomy, names):
            print(line)
    else:
        for cluster in sorted(model.clusters, key=lambda c: -c.size):
            print(f"  {cluster.id:4d}  {cluster.size:6d} images  {cluster.name or ''}")
    _print_figures({name: value for name, value in result.figures.items() if name != "taxonomy"})


def _print_figures(figures: Mapping[str, Any], indent: str = "") -> None:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}:")
            _print_figures(value, indent + "  ")
        elif not isinstance(value, list | tuple):
            print(f"{indent}{name} = {round(value, 4) if isinstance(value, float) else value}")


def predict(arguments: argparse.Namespace) -> int:
    from imgclust.model.model import ClusterModel
    from imgclust.tagging import files, folders

    if arguments.output is not None:
        files.writer_for(arguments.output)  # a wrong ending is told before any work
    target = arguments.copy_to or arguments.link_to
    if target is not None:
        folders.check_outside(target, [i for i in arguments.images if i != "-"])
    model = ClusterModel.load(arguments.model)
    failures, skipped = _Failures(), Counter[str]()
    rows = _predicted(arguments, model, failures, skipped)
    counts = folders.Sorted()
    if target is not None:
        rows = (folders.copy_to if arguments.copy_to else folders.link_to)(rows, target, counts)
    written = _write(rows, arguments.output)
    failures.print_summary()
    if target is not None:
        _note(f"{counts.placed} pictures placed in {target}, {counts.present} were there before")
    if written:
        return 0
    raise ImgclustError("no picture was predicted")


class _Failures:
    """Pictures that could not be had: the first few with their reasons, all of them counted."""

    def __init__(self) -> None:
        self._codes: Counter[str] = Counter()

    def __call__(self, failed: Failed) -> None:
        self._codes[failed.code] += 1
        if self._codes.total() <= SHOWN_FAILURES:
            _note(f"{failed.item.source!a}: {failed.code}: {failed.message}")

    def print_summary(self) -> None:
        for code, count in self._codes.most_common():
            _note(f"{count} failed: {code}")


def _predicted(
    arguments: argparse.Namespace, model: ClusterModel, failures: _Failures, skipped: Counter[str]
) -> Iterator[Row]:
    """Rows of embeddings folders come from what is stored; all else is read and encoded."""
    from imgclust.embedding.store import shards
    from imgclust.tagging import rows as predictions

    stored = [i for i in arguments.images if Path(i).is_dir() and shards(Path(i))]
    others = [i for i in arguments.images if i not in stored]
    for folder in stored:
        yield from predictions.predict_embeddings(model, Path(folder))
    if not others:
        return
    encoder = _encoder_of(model, arguments)
    common: dict[str, Any] = {
        "on_failed": failures, "workers": arguments.workers, "reader": _reader(arguments)
    }  # fmt: skip
    if "-" in others:
        yield from predictions.predict_lines(model, encoder, sys.stdin, **common)
        others.remove("-")
    if others:
        yield from predictions.predict_paths(model, encoder, others, skipped=skipped, **common)


def _write(rows: Iterable[Row], path: Path | None) -> int:
    """To a file by its ending; a table on a terminal; JSON lines into a pipe. Returns the number of rows."""
    from imgclust.tagging import files, table

    if path is not None:
        tally = table.PredictionSummary()
        files.write_rows(tally.watch(rows), path)
        if tally.total:
            from rich.console import Console

            table.print_summary(tally, Console(stderr=True))
        return tally.total
    if sys.stdout.isatty():
        from rich.console import Console

        return table.print_table(rows, Console()).total
    import orjson

    written = 0
    for row in rows:
        sys.stdout.buffer.write(orjson.dumps(files.as_json(row), option=orjson.OPT_APPEND_NEWLINE))
        written += 1
    sys.stdout.buffer.flush()
    return written


def report(arguments: argparse.Namespace) -> int:
    from imgclust.report.page import write_report

    path = write_report(arguments.model, arguments.output, tags=arguments.tags, title=arguments.title)
    print(f"report in {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def names(arguments: argparse.Namespace) -> int:
    from imgclust.model.gallery import centres
    from imgclust.model.model import ClusterModel
    from imgclust.model.naming import name_clusters

    model = ClusterModel.load(arguments.model)
    if model.encoder is None:
        raise EncoderError(f"the model in {str(arguments.model)!a} does not say which encoder it takes")
    vocabulary = _encoder(model.encoder, weights=arguments.weights).vocabulary(_words(arguments.vocabulary))
    found = name_clusters(centres(model.arrays["embeddings"], model.arrays["labels"]), *vocabulary)
    renamed = model.renamed(found)
    renamed.save(arguments.output or arguments.model)
    for cluster in renamed.clusters:
        print(f"{cluster.id:4d}  {cluster.size:6d} images  {cluster.name or ''}")
    return 0


def _vocabulary(arguments: argparse.Namespace, identity: EncoderIdentity) -> Any:
    """Names and vectors for `fit`; an encoder that cannot be had costs the names, not the fit."""
    if arguments.no_names:
        return None
    words = _words(arguments.vocabulary)
    try:
        return _encoder(identity, weights=arguments.weights).vocabulary(words)
    except EncoderError as error:
        if words is not None:
            raise
        _note(f"{'new' if arguments.previous else 'the'} clusters get no names: {error}")
        return None


def _words(path: Path | None) -> list[str] | None:
    """One phrase a line; blank lines and lines that begin with # are left out."""
    if path is None:
        return None
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImgclustError(f"the vocabulary {str(path)!a} cannot be read: {error}") from None
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not words:
        raise ImgclustError(f"the vocabulary {str(path)!a} has no words: one phrase a line is expected")
    return list(dict.fromkeys(words))


def _encoder_of(model: ClusterModel, arguments: argparse.Namespace) -> TorchEncoder:
    if model.encoder is None:
        raise EncoderError(
            "the model does not say which encoder it takes, so it predicts embeddings folders only"
        )
    return _encoder(
        model.encoder, device=arguments.device, precision=arguments.precision, weights=arguments.weights
    )


def _encoder(
    wanted: EncoderIdentity,
    *,
    device: str = "auto",
    precision: str | None = None,
    weights: Path | None = None,
) -> TorchEncoder:
    """The encoder of a model or an embeddings folder, checked to be that very one."""
    from imgclust.embedding.encoder import load_encoder
    from imgclust.embedding.store import describe

    encoder = load_encoder(
        wanted.name, device=device, precision=precision or wanted.precision, weights=weights
    )
    if not encoder.identity.same_space(wanted):
        raise EncoderError(
            f"{describe(wanted)} is wanted, but what loaded is {describe(encoder.identity)}; "
            "--weights and --precision choose another"
        )
    return encoder


def _reader(arguments: argparse.Namespace) -> Reader:
    from imgclust.images.reader import Reader

    if not (arguments.allow_network or arguments.allow_port or arguments.allow_bucket or arguments.proxy):
        return Reader()  # loads nothing of the network unless there are URLs
    from imgclust.fetching.urls import FetchPolicy

    try:
        networks = tuple(ipaddress.ip_network(n) for n in arguments.allow_network)
    except ValueError as error:
        raise ImgclustError(f"--allow-network: {error}; give it like 10.1.0.0/16") from None
    policy = FetchPolicy(
        allow_networks=networks,
        allow_ports=(80, 443, *arguments.allow_port),
        allow_buckets=tuple(arguments.allow_bucket),
        proxy=arguments.proxy,
    )
    if policy.allow_buckets:
        from imgclust.fetching.object_store import Buckets

        Buckets(policy)  # what is missing is told before hours of work
    return Reader(policy)


def _note(text: str) -> None:
    print(f"imgclust: {text}", file=sys.stderr)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "embed": embed,
    "fit": fit,
    "predict": predict,
    "report": report,
    "names": names,
}
