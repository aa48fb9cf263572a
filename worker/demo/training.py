"""The demo's first half: pictures → embeddings → a frozen model and its report, in one folder."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.errors import ImgclustError, UnsupportedFormat
from imgclust.images.containers import sniff
from imgclust.images.sources import Item, items
from imgclust.support.progress import Listener

if TYPE_CHECKING:
    from imgclust.embedding.embed import EmbedSummary
    from imgclust.embedding.store import Embeddings
    from imgclust.training.fit import FitResult
    from imgclust.types import Encoder, Floats

# A photograph of 11 megapixels takes 24 ms to decode and 10 ms to embed on one core: 70 s for all, on two.
MAX_IMAGES = 4000
HELD_OUT = 0.2
LABELS = "labels.csv"
ATTRIBUTES = ("category", "title")  # of its columns
HEAD_BYTES = 4096  # enough to tell a format
STAMP = "made-from.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The pictures of a run.

    Attributes:
        items: each with its category and title as attributes, where the folder has a labels.csv.
        found: pictures that there were to choose from.
        skipped: files that are none.
    """

    items: Sequence[Item]
    found: int
    skipped: int


def choose(folders: Sequence[Path], seed: int = 0) -> Chosen:
    """Find the pictures of some folders; at most `MAX_IMAGES` of them, at random.

    Raises:
        ImgclustError: a folder does not exist.
    """
    found, others = [], 0
    labels = _labels(folders)
    for item in items(folders):
        if _is_picture(Path(item.source)):
            found.append(dataclasses.replace(item, attributes=labels.get(item.id, {})))
        else:
            others += 1
    chosen = random.Random(seed).sample(found, min(len(found), MAX_IMAGES))  # noqa: S311
    return Chosen(sorted(chosen, key=lambda item: item.id), len(found), others)


def _is_picture(path: Path) -> bool:
    try:
        str(path).encode()  # a list of pictures is UTF-8, a file's name may be any bytes
        with path.open("rb") as file:
            sniff(file.read(HEAD_BYTES))
    except (OSError, UnicodeEncodeError, UnsupportedFormat):
        return False
    return True


def _labels(folders: Sequence[Path]) -> dict[str, Mapping[str, str]]:
    """Id → category and title, from the labels.csv (file, category, title) of a single folder."""
    path = folders[0] / LABELS
    if len(folders) > 1 or not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}  # somebody's file of that name, for something else
    return {str(row.get("file")): {n: row[n] for n in ATTRIBUTES if row.get(n)} for row in rows}


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model in its folder, and what it has never seen.

    Attributes:
        model: the model folder.
        files: the held-out pictures that will be streamed.
        categories: of each of them; empty without labels.
        labels: the cluster that the fit itself predicted for each of them.
        clusters: how many there are.
    """

    model: Path
    files: Sequence[Path]
    categories: Sequence[str]
    labels: Sequence[int]
    clusters: int


def embed_images(chosen: Chosen, out: Path, encoder: Encoder) -> tuple[Embeddings, EmbedSummary]:
    """Embed the pictures into `out/embeddings`, or go on with what an earlier run left there.

    Returns:
        The embeddings, and what this run added to them.

    Raises:
        ImgclustError: nothing can be embedded, or the folder is somebody else's.
    """
    from imgclust.embedding.embed import embed
    from imgclust.embedding.store import read_embeddings, read_ids

    folder = out / "embeddings"
    if not chosen.items:
        raise ImgclustError("there are no pictures; name a folder that holds some, at any depth")
    _forget_others(folder, _stamp(chosen, encoder))
    listed = out / "images.csv"
    _write_list(chosen, listed)
    summary = embed([listed], folder, encoder, progress=len(read_ids(folder)) < len(chosen.items))
    if not summary.embedded and not summary.present:
        raise ImgclustError(
            f"none of {len(chosen.items)} pictures could be read; see {folder / 'failed.csv'}"
        )
    return read_embeddings(folder), summary


def _stamp(chosen: Chosen, encoder: Encoder) -> str:
    """What the embeddings depend on: the files (as far as sizes and times show) and the encoder."""
    seen = hashlib.sha256(json.dumps(encoder.identity.to_dict(), sort_keys=True).encode())
    for item in chosen.items:
        status = Path(item.source).stat()
        line = [item.id, str(Path(item.source).resolve()), status.st_size, status.st_mtime_ns]
        seen.update(json.dumps([*line, dict(item.attributes)]).encode())
    return seen.hexdigest()


def _forget_others(folder: Path, stamp: str) -> None:
    """Remove embeddings of other pictures or of another encoder, if a demo made them.

    Raises:
        ImgclustError: the folder is there, and no demo made it.
    """
    note = folder / STAMP
    if folder.exists() and not note.exists():
        raise ImgclustError(f"{str(folder)!a} was not made by the demo; choose another folder with --out")
    if note.exists() and note.read_text(errors="replace") != stamp:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(stamp)


def _write_list(chosen: Chosen, path: Path) -> None:
    names = [n for n in ATTRIBUTES if any(n in item.attributes for item in chosen.items)]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "file", *names])
        for item in chosen.items:
            values = [item.attributes.get(name, "") for name in names]
            rows.writerow([item.id, str(Path(item.source).resolve()), *values])


def train(
    embeddings: Embeddings,
    out: Path,
    vocabulary: tuple[Sequence[str], Floats] | None,
    progress: Listener,
    seed: int = 0,
) -> tuple[FitResult, Trained]:
    """Fit on 80 % of the pictures, without duplicates, and write the model folder.

    Without a vocabulary, clusters are named as `fit` does it for the encoder.

    Raises:
        ImgclustError: too few pictures, no cluster, or `out/model` is something else.
    """
    from imgclust.training.fit import fit

    result = fit(
        embeddings, vocabulary=vocabulary, test_fraction=HELD_OUT, seed=seed, progress=progress,
        parameters={"consensus": 0},  # who tries this out waits for it
    )  # fmt: skip
    model = out / "model"
    result.model.save(model)
    rows = [int(row) for row in result.split.test]
    categories = [str(embeddings.attributes[row].get("category", "")) for row in rows]
    return result, Trained(
        model=model,
        files=[Path(embeddings.sources[row]) for row in rows],
        categories=categories if any(categories) else (),
        labels=[int(label) for label in result.test.labels],
        clusters=len(result.model.clusters),
    )
