"""Arguments → the encoder, the reader and the words that they ask for."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclust.cli.output import note
from imgclust.errors import EncoderError, ImgclustError

if TYPE_CHECKING:
    from imgclust.embedding.torch_encoder import TorchEncoder
    from imgclust.engines.ray_data import Workers
    from imgclust.engines.steps import EmbedOptions
    from imgclust.fetching.urls import FetchPolicy
    from imgclust.images.decode import Limits
    from imgclust.images.reader import Reader
    from imgclust.model.model import ClusterModel
    from imgclust.types import EncoderIdentity


def vocabulary(arguments: argparse.Namespace, identity: EncoderIdentity) -> Any:
    """What `fit` takes names from; an encoder that cannot be had costs the names, not the fit."""
    from imgclust.naming.hierarchy import ClassHierarchy, by_hierarchy

    if arguments.no_names:
        return None
    phrases = words(arguments.vocabulary)
    try:
        if phrases is None and by_hierarchy(identity):
            return ClassHierarchy.of(arguments.weights)
        return encoder(identity, weights=arguments.weights).vocabulary(phrases)
    except EncoderError as error:
        if phrases is not None:
            raise
        note(f"{'new' if arguments.previous else 'the'} clusters get no names: {error}")
        return None


def words(path: Path | None) -> list[str] | None:
    """One phrase a line; blank lines and lines that begin with # are left out."""
    if path is None:
        return None
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImgclustError(f"the vocabulary {str(path)!a} cannot be read: {error}") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise ImgclustError(f"the vocabulary {str(path)!a} has no words: write one phrase per line")
    return list(dict.fromkeys(found))


def encoder_of(model: ClusterModel, arguments: argparse.Namespace) -> TorchEncoder:
    """The encoder whose embeddings a model takes."""
    if model.encoder is None:
        raise EncoderError("the model does not name its encoder, so it predicts embeddings folders only")
    return encoder(
        model.encoder, device=arguments.device, precision=arguments.precision, weights=arguments.weights
    )


def encoder(
    wanted: EncoderIdentity,
    *,
    device: str = "auto",
    precision: str | None = None,
    weights: Path | None = None,
) -> TorchEncoder:
    """The encoder of a model or an embeddings folder, checked to be that very one."""
    from imgclust.embedding.encoder import load_encoder
    from imgclust.types import IMPORTED

    if wanted.architecture == IMPORTED:
        raise EncoderError(
            f"the embeddings of {wanted.name!a:.200} were imported, so images cannot be encoded for them: "
            "make embeddings in the same way, and give their folder"
        )

    encoder = load_encoder(
        wanted.name, device=device, precision=precision or wanted.precision, weights=weights
    )
    remedy = "--weights and --precision choose another"
    encoder.identity.check_same(wanted, "wanted is", remedy, here="what loaded is", error=EncoderError)
    return encoder


def limits(arguments: argparse.Namespace) -> Limits:
    """What one image may cost."""
    from imgclust.images.decode import DEFAULT_LIMITS, Limits

    return Limits(
        max_pixels=arguments.max_pixels or DEFAULT_LIMITS.max_pixels,
        max_bytes=arguments.max_bytes or DEFAULT_LIMITS.max_bytes,
    )


def reader(arguments: argparse.Namespace) -> Reader:
    """What reads the images: files, and URLs of the addresses that the arguments allow."""
    from imgclust.images.reader import Reader

    return Reader(policy(arguments))


def policy(arguments: argparse.Namespace) -> FetchPolicy | None:
    """What may be fetched; None: public addresses, and nothing of the network is loaded without URLs."""
    asked = (
        arguments.allow_network, arguments.allow_port, arguments.allow_bucket, arguments.proxy,
        arguments.max_bytes,
    )  # fmt: skip
    if not any(asked):
        return None
    from imgclust.fetching.urls import FetchPolicy

    try:
        networks = tuple(ipaddress.ip_network(n) for n in arguments.allow_network)
    except ValueError as error:
        raise ImgclustError(f"--allow-network: {error}; give it like 10.1.0.0/16") from None
    allowed = FetchPolicy(
        allow_networks=networks,
        allow_ports=(80, 443, *arguments.allow_port),
        allow_buckets=tuple(arguments.allow_bucket),
        proxy=arguments.proxy,
        max_bytes=arguments.max_bytes or FetchPolicy().max_bytes,
    )
    if allowed.allow_buckets:
        from imgclust.fetching.object_store import Buckets

        Buckets(allowed)  # says what is missing before hours of work
    return allowed


def on_ray(
    arguments: argparse.Namespace, identity: EncoderIdentity | None
) -> tuple[EmbedOptions | None, Workers]:
    """What Ray's actors are told of the arguments; no options where there is nothing to encode.

    Raises:
        ImgclustError: Ray is not installed, or cannot be reached.
    """
    from imgclust.engines.ray_data import Workers, connected
    from imgclust.engines.steps import EmbedOptions

    connected()
    workers = Workers(arguments.engine_workers, gpus=arguments.engine_gpus)
    if identity is None:
        return None, workers
    options = EmbedOptions(
        identity,
        device=arguments.device,
        precision=identity.precision,
        weights=None if arguments.weights is None else arguments.weights.resolve(),
        workers=arguments.workers,
        limits=limits(arguments),
        policy=policy(arguments),
    )
    return options, workers
