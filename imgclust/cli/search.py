"""`imgclust search`: images like a text or a picture."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli import loading
from imgclust.cli.options import Commands, add_command, add_encoder_options, positive
from imgclust.errors import EncoderError, ImgclustError

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.searching.search import Hit
    from imgclust.types import EncoderIdentity, Floats

PAGE = ".html"
COLUMNS = ("rank", "cosine", "id", "source", "cluster", "name")


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "search",
        run,
        "find the images that are most similar to a text or a picture",
        '  imgclust search model/ "a plate of food"\n'
        "  imgclust search model/ --like photo.jpg -n 50\n"
        '  imgclust search model/ "a dog" --cluster 3 --embeddings embeddings/ -o dogs.html\n'
        "  imgclust search embeddings/ --like photo.jpg -o found.csv",
    )
    command.add_argument("where", type=Path, metavar="MODEL", help="a model, or an embeddings folder")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("text", nargs="?", metavar="TEXT",
        help="a description, for CLIP encoders; with mini, the name of one of its 1,000 classes",
    )  # fmt: skip
    what.add_argument("--like", type=Path, metavar="PICTURE", help="a picture file")
    command.add_argument(
        "--embeddings", type=Path, metavar="EMBEDDINGS",
        help="search this folder instead of the training images",
    )  # fmt: skip
    command.add_argument("--cluster", type=int, metavar="N", help=("search only this cluster; -1 is other"))
    command.add_argument(
        "-n",
        "--count",
        type=positive,
        default=20,
        metavar="N",
        help=("maximum number of images (%(default)s)"),
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=("output file: .csv, .jsonl or .parquet, or .html for a page with pictures"),
    )
    add_encoder_options(command, precision=None)


def run(arguments: argparse.Namespace) -> int:
    from imgclust.searching.search import search
    from imgclust.support.tables import check_ending, write_records

    if arguments.output is not None:
        check_ending(arguments.output, [PAGE])
    model, folder, identity = _searched(arguments)
    hits = search(
        _query(identity, arguments),
        model=model,
        embeddings=folder,
        cluster=arguments.cluster,
        count=arguments.count,
    )
    records = [{"rank": rank, **dataclasses.asdict(hit)} for rank, hit in enumerate(hits, 1)]
    if arguments.output is None:
        for record in records:
            cluster = "" if record["cluster"] is None else f"{record['cluster']:4d} {record['name'] or ''}"
            print(f"{record['cosine']:7.4f}  {record['id']}  {cluster}".rstrip())
        return 0
    if arguments.output.suffix.lower() == PAGE:
        _write_page(arguments, hits, model)
    else:
        write_records(records, arguments.output, COLUMNS)
    print(f"{len(hits)} images in {arguments.output}")
    return 0


def _searched(arguments: argparse.Namespace) -> tuple[ClusterModel | None, Path | None, EncoderIdentity]:
    """The model, the folder, and whose embeddings they have."""
    from imgclust.embedding.store import iter_embeddings, shards
    from imgclust.model.model import ClusterModel

    if arguments.where.is_dir() and shards(arguments.where):
        if arguments.embeddings is not None or arguments.cluster is not None:
            raise ImgclustError(
                f"{str(arguments.where)!a} is an embeddings folder: to search it by a model's clusters, give "
                "the model first, and the folder as --embeddings"
            )
        return None, arguments.where, next(iter_embeddings(arguments.where)).identity
    model = ClusterModel.load(arguments.where)
    if model.encoder is None:
        raise EncoderError("the model does not name its encoder, so nothing can be encoded for it")
    return model, arguments.embeddings, model.encoder


def _query(identity: EncoderIdentity, arguments: argparse.Namespace) -> Floats:
    from imgclust.searching.search import picture_query, text_query

    encoder = loading.encoder(
        identity, device=arguments.device, precision=arguments.precision, weights=arguments.weights
    )
    return (
        text_query(encoder, arguments.text)
        if arguments.like is None
        else picture_query(encoder, arguments.like)
    )


def _write_page(arguments: argparse.Namespace, hits: list[Hit], model: ClusterModel | None) -> None:
    from imgclust.model.gallery import thumbnail_of
    from imgclust.report.pictures import Picture, PictureGroup, write_pictures

    stored = model.thumbnails if model else {}
    pictures = [
        Picture(
            hit.id, _caption(hit), stored.get(hit.id) or (thumbnail_of(hit.source) if hit.source else None)
        )
        for hit in hits
    ]
    what = f"like {arguments.like.name}" if arguments.like else f"\u201c{arguments.text}\u201d"
    about = f"{len(hits)} nearest images in {arguments.where}"
    write_pictures(arguments.output, f"Search: {what}", about, [PictureGroup("", "", pictures)])


def _caption(hit: Hit) -> str:
    if hit.cluster is None:
        return f"{hit.cosine:.3f}"
    return f"{hit.cosine:.3f} \u00b7 {hit.name or ('other' if hit.cluster < 0 else f'cluster {hit.cluster}')}"
