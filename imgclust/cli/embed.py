"""`imgclust embed`: images → embeddings."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.cli import loading
from imgclust.cli.options import (
    IMAGES,
    LIMIT_OPTIONS,
    Commands,
    add_command,
    add_encoder_options,
    add_engine_options,
    add_reading_options,
    positive,
)
from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.embedding.embed import EmbedSummary

DEFAULT_ENCODER = "ViT-B-32/laion2b_s34b_b79k"


def add(commands: Commands) -> None:
    command = add_command(
        commands,
        "embed",
        run,
        "turn images into embeddings (Parquet); run it again to resume or to add images",
        "  imgclust embed photos/ -o embeddings/\n"
        "  imgclust embed photos.csv -o embeddings/ --encoder ViT-L-14/laion2b_s32b_b82k --device cuda\n"
        "  imgclust embed photos/ -o embeddings/ --encoder ViT-B-32@checkpoint.safetensors",
    )
    command.add_argument("images", nargs="+", metavar="IMAGES", help=IMAGES)
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="EMBEDDINGS", help="output folder"
    )
    command.add_argument(
        "--encoder",
        default=DEFAULT_ENCODER,
        help="mini, an open_clip MODEL/PRETRAINED, or MODEL@CHECKPOINT (default: %(default)s)",
    )
    add_encoder_options(command, precision="float32")
    command.add_argument(
        "--batch", type=positive, default=64, help="images per call of the encoder (%(default)s)"
    )
    add_reading_options(command)
    add_engine_options(command, "reads and encodes")
    command.add_argument("--quiet", action="store_true", help="do not show progress")


def run(arguments: argparse.Namespace) -> int:
    from imgclust.embedding.embed import embed
    from imgclust.embedding.encoder import load_encoder

    encoder = load_encoder(
        arguments.encoder,
        device="cpu" if arguments.engine == "ray" else arguments.device,  # then it only says what it is
        precision=arguments.precision,
        weights=arguments.weights,
        max_batch=arguments.batch,
    )
    outcomes = None
    if arguments.engine == "ray":
        from imgclust.engines.runs import outcomes_on_ray

        options, workers = loading.on_ray(arguments, encoder.identity)
        assert options is not None
        outcomes = outcomes_on_ray(dataclasses.replace(options, batch=arguments.batch), workers)
    summary = embed(
        arguments.images,
        arguments.output,
        encoder,
        batch=arguments.batch,
        workers=arguments.workers,
        progress=not arguments.quiet,
        limits=loading.limits(arguments),
        reader=loading.reader(arguments),
        outcomes=outcomes,
        engine="ray" if outcomes else "this process",
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
    if summary.renamed:
        print(f"  {summary.renamed} have the name of another image; their ids got #… from their content")
    for reason, count in summary.skipped.most_common():
        print(f"  {count} skipped: {reason}")
    for code, count in summary.failed.most_common():
        remedy = f"; {LIMIT_OPTIONS[code]} reads larger ones" if code in LIMIT_OPTIONS else ""
        print(f"  {count} failed: {code}; see {summary.folder / FAILED}{remedy}")
    if summary.needs_heif:
        from imgclust.images.containers import HEIF_HINT

        print(f"  {summary.needs_heif} of them are HEIC photos; to read them: {HEIF_HINT}")
