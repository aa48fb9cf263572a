"""Every setting, typed once: its name, type, default, what is allowed and what it means."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from worker.messages.mapping_syntax import FieldSource
from worker.settings import parsers
from worker.settings.parsers import Kind
from worker.settings.values import ImageSource, Network, RetryLimits

T = TypeVar("T")


@overload
def setting(default: None, kind: Kind[T], meaning: str, *, secret: bool = False) -> T | None: ...
@overload
def setting(default: str, kind: Kind[T], meaning: str, *, secret: bool = False) -> T: ...
def setting(default: str | None, kind: Kind[Any], meaning: str, *, secret: bool = False) -> Any:
    """A field of Settings; its type is that of its kind.

    Args:
        default: the text that an operator would write; None where there is none.
        meaning: for the README and the terminal.
        secret: never shown, and may be read from a file.
    """
    described = {"default": default, "kind": kind, "meaning": meaning, "secret": secret}
    return dataclasses.field(repr=not secret, metadata=described)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed and checked; `repr` shows no secret. In the environment: WORKER_<NAME>.

    Attributes:
        kafka: the WORKER_KAFKA_… properties, under librdkafka's names.
    """

    kafka: Mapping[str, str] = dataclasses.field(repr=False)
    bootstrap_servers: str = setting(
        "localhost:9092", parsers.text.described("host:port, several separated by commas"), "Kafka's brokers"
    )
    group_id: str = setting(
        "imgclust", parsers.text, "the tagger's consumer group; the view's is `<group>.view`"
    )
    uploads_topic: str = setting("uploads", parsers.topic, "the topic with upload events")
    tags_topic: str = setting("tags", parsers.topic, "the topic for tags")
    retry_topic: str = setting("uploads.retry", parsers.topic, "the topic for pending retries")
    dlq_topic: str = setting("uploads.dlq", parsers.topic, "the topic for dead letters")
    uploads_map: Mapping[str, FieldSource] | None = setting(
        None,
        parsers.field_map,
        "maps fields of your events to those of an upload (docs/events.md); fields not named are as usual",
    )
    uploads_format: str = setting(
        "json",
        parsers.one_of("json", "avro", "protobuf"),
        "format of upload events; `avro` and `protobuf` as a schema registry's serialisers write them",
    )
    uploads_protobuf: tuple[Path, str] | None = setting(
        None, parsers.protobuf_message, "the Protobuf message of upload events; default: imgclust.Upload"
    )
    tags_format: str = setting(
        "json",
        parsers.one_of("json", "json-schema", "avro", "protobuf"),
        "format of tags in the topic (Redis has JSON); all but `json` use a schema registry",
    )
    cloud_events: str | None = setting(
        None,
        parsers.uri_reference,
        "if set, tags and deletions have CloudEvents attributes as headers (`ce_id`, …), with this source",
    )
    schema_registry_url: str | None = setting(
        None, parsers.registry_url, "the schema registry, if a format needs one", secret=True
    )
    schema_registry_auth: str | None = setting(
        None,
        parsers.user_password,
        "login for the schema registry; `WORKER_SCHEMA_REGISTRY_AUTH_FILE` reads it from a file",
        secret=True,
    )
    embeddings_topic: str | None = setting(
        None, parsers.topic, "if set, keeps embeddings, to train and tag again (docs/retraining.md)"
    )
    models_topic: str | None = setting(
        None,
        parsers.topic,
        "if set, the topic that names the live and the shadow model; workers switch while they run "
        "(docs/retraining.md)",
    )
    create_topics: bool = setting("false", parsers.boolean, "create missing topics at the start")
    partitions: int = setting(
        "8",
        parsers.count(1, 10_000),
        "partitions of new topics; if the uploads topic exists, they get as many as it has",
    )
    start: str = setting(
        "earliest", parsers.one_of("earliest", "latest"), "where a group without committed offsets begins"
    )
    delivery: str = setting(
        "exactly-once",
        parsers.one_of("exactly-once", "at-least-once"),
        "`at-least-once` is for brokers without transactions: an equal tag may be published twice",
    )
    commit_interval: float = setting(
        "0.05", parsers.seconds(0.001, 60), "how long results wait for a transaction"
    )
    group_protocol: str = setting(
        "classic",
        parsers.one_of("classic", "consumer"),
        "`classic`: cooperative-sticky; `consumer`: KIP-848, recommended with brokers from 4.0",
    )
    redis_url: str = setting("redis://localhost:6379/0", parsers.redis_url, "the view's Redis", secret=True)
    redis_password: str | None = setting(
        None,
        parsers.text.described("a password"),
        "password, if it is not in the URL; `WORKER_REDIS_PASSWORD_FILE` reads it from a file",
        secret=True,
    )
    redis_prefix: str = setting("imgclust:", parsers.any_text, "prefix of every Redis key")
    redis_keep: float = setting(
        "2592000",
        parsers.seconds(60, 3_153_600_000),
        "how long a tag stays in Redis after its `uploaded_at` (default: 30 days); a change applies to tags "
        "that are written afterwards",
    )
    redis_cluster_size: int = setting(
        "10000", parsers.count(1, 100_000_000), "how many of its newest uploads a cluster lists"
    )
    redis_tag: str = setting(
        "full",
        parsers.one_of("full", "compact"),
        "`compact`: tags take a third of the memory, but have no URL and attributes (docs/redis.md)",
    )
    model: Path | None = setting(
        None,
        parsers.folder.described("an existing model folder (made by `imgclust fit`)"),
        "the frozen model; with WORKER_MODELS_TOPIC, the first one. Its manifest names the encoder",
    )
    models_folder: Path | None = setting(
        None, parsers.folder, "the folder that contains the models that the models topic names"
    )
    device: str = setting("auto", parsers.device("auto", "cpu", "mps"), "the device of the encoder")
    predict_device: str = setting(
        "cpu",
        parsers.device("cpu"),
        "the device of the prediction; at the start a GPU is compared with the CPU, and refused if one bit "
        "differs",
    )
    encoder_weights: Path | None = setting(
        None, parsers.file, "the encoder's weights, if it cannot download them; checked against the model"
    )
    precision: str | None = setting(
        None,
        parsers.one_of("float32", "bf16", "fp16"),
        "precision of the encoder; default: the model's. Any other is refused",
    )
    max_batch: int = setting("64", parsers.count(1, 4096), "images in a batch at most")
    max_wait: float = setting(
        "0.02", parsers.seconds(0, 10), "how long the first image of a batch waits for others"
    )
    fetchers: int = setting(
        str(os.cpu_count() or 1),
        parsers.count(1, 512),
        "processes that fetch and decode (default: the number of cores)",
    )
    slots: int = setting(
        "0", parsers.count(0, 65_536), "decoded images in memory at most; 0: 4 × WORKER_MAX_BATCH"
    )
    max_in_flight: int = setting(
        "8192",
        parsers.count(1, 24_000),
        "uploads in flight at most; usually half a second's work, and 1,024 or more",
    )
    skip: frozenset[tuple[int, int]] = setting(
        "", parsers.records, "records of the uploads topic that become dead letters without being tried"
    )
    fetch_allow_networks: tuple[Network, ...] = setting(
        "", parsers.networks, "networks that may be fetched from even if they are not public"
    )
    fetch_allow_hosts: tuple[str, ...] = setting(
        "", parsers.host_globs("*.cdn.example"), "if set, only these hosts are fetched from"
    )
    fetch_deny_hosts: tuple[str, ...] = setting(
        "", parsers.host_globs("*.internal.example"), "never fetched from, even if otherwise allowed"
    )
    fetch_allow_ports: tuple[int, ...] = setting("80 443", parsers.ports, "ports that may be fetched from")
    fetch_allow_files: Path | None = setting(
        None, parsers.folder, "if set, `file:` URLs below this folder are read"
    )
    fetch_allow_buckets: tuple[str, ...] = setting(
        "",
        parsers.buckets,
        "buckets whose `s3://bucket/key` URLs are read, by the usual `AWS_…` variables; needs the extra `s3`",
    )
    fetch_nat64_prefixes: tuple[ipaddress.IPv6Network, ...] = setting(
        "",
        parsers.nat64_prefixes,
        "NAT64 prefixes of your network, in addition to 64:ff9b::/96: addresses in them are checked as the "
        "IPv4 addresses that they contain",
    )
    fetch_proxy: str | None = setting(
        None,
        parsers.proxy,
        "HTTP proxy for all fetches; the proxy must then block private addresses. `HTTP_PROXY` and similar "
        "variables are ignored",
        secret=True,
    )
    fetch_timeout: float = setting(
        "10", parsers.seconds(0.1, 600), "for one image in all, with DNS and redirects"
    )
    fetch_connect_timeout: float = setting("3", parsers.seconds(0.1, 600), "for connecting, including TLS")
    fetch_silence_timeout: float = setting(
        "5", parsers.seconds(0.1, 600), "for the first byte of a response, and for any silence in it"
    )
    fetch_min_rate: float = setting(
        "4096",
        parsers.number(0, 1e9, "bytes/s"),
        "minimum average speed of a response, after its first 2 seconds; slower downloads are aborted",
    )
    fetch_max_bytes: int = setting(
        str(20 * 1024 * 1024), parsers.count(1024, 1 << 30), "bytes of one image at most"
    )
    fetch_connections: int = setting(
        "64", parsers.count(1, 1024), "concurrent downloads of each fetcher process"
    )
    fetch_per_host: int = setting(
        "0",
        parsers.count(0, 1024),
        "of these from one host at most, for servers that cannot take more; 0: three quarters, so "
        "that a slow host leaves a quarter to the others",
    )
    max_pixels: int = setting(
        "50000000", parsers.count(1, 1_000_000_000), "pixels of one image at most, checked before decoding"
    )
    decode_timeout: float = setting(
        "30", parsers.seconds(0.5, 600), "for decoding one image; then its process is replaced"
    )
    retry_limit: RetryLimits = setting(
        "5", parsers.retry_limits, "attempts at most if failures are transient, including the first"
    )
    retry_first: float = setting(
        "2", parsers.seconds(0.01, 3600), "delay before the second attempt; it quadruples each time"
    )
    retry_max: float = setting("600", parsers.seconds(0.01, 86_400), "longest delay between two attempts")
    tag_url: bool = setting("true", parsers.boolean, "`false` leaves `url` out of tags (for signed URLs)")
    http: tuple[str, int] = setting("127.0.0.1:9464", parsers.address, "address of metrics and health")
    wall: tuple[str, int] = setting("127.0.0.1:9465", parsers.address, "address of `imgclust-worker wall`")
    wall_images: tuple[ImageSource, ...] = setting(
        "https:",
        parsers.image_sources,
        "where viewers' browsers may load pictures from, among the hosts that may be fetched from",
    )
    serve: tuple[str, int] = setting("127.0.0.1:9466", parsers.address, "address of `imgclust-worker serve`")
    serve_queue: int = setting(
        "128", parsers.count(1, 65_536), "requests that may wait for `imgclust-worker serve`; others get 429"
    )
    drain_timeout: float = setting(
        "25", parsers.seconds(0, 3600), "time limit after SIGTERM, to finish and commit what is in flight"
    )
    stall_timeout: float = setting(
        "120",
        parsers.seconds(1, 86_400),
        "if a stage has work but makes no progress for so long, the process exits with code 4",
    )
    trace_share: float = setting(
        "0",
        parsers.number(0, 1, "a share"),
        "share of the uploads without a `traceparent` that the worker traces (docs/watching.md)",
    )
    log: Literal["auto", "text", "json"] = setting(
        "auto",
        parsers.one_of("auto", "text", "json"),
        "`auto`: text on a terminal, otherwise one JSON object per line",
    )
