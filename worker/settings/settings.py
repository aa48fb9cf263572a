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
        "imgclust", parsers.text, "consumer group of the tagger; the view's is `<group>.view`"
    )
    uploads_topic: str = setting("uploads", parsers.topic, "where upload events are read")
    tags_topic: str = setting("tags", parsers.topic, "where tags are published")
    retry_topic: str = setting("uploads.retry", parsers.topic, "pending retries")
    dlq_topic: str = setting("uploads.dlq", parsers.topic, "where dead letters go")
    uploads_map: Mapping[str, FieldSource] | None = setting(
        None,
        parsers.field_map,
        "where an event has the fields of an upload (docs/events.md); those that are not named are as usual",
    )
    uploads_format: str = setting(
        "json",
        parsers.one_of("json", "avro", "protobuf"),
        "of upload events; the latter two as a schema registry's serialisers write them",
    )
    uploads_protobuf: tuple[Path, str] | None = setting(
        None, parsers.protobuf_message, "the Protobuf message of upload events; default: imgclust.Upload"
    )
    tags_format: str = setting(
        "json",
        parsers.one_of("json", "json-schema", "avro", "protobuf"),
        "of tags in the topic (Redis has JSON); all but `json` as a schema registry's serialisers write them",
    )
    cloud_events: str | None = setting(
        None,
        parsers.uri_reference,
        "tags and deletions have the attributes of CloudEvents as headers (`ce_id`, …), with this source; "
        "none when unset",
    )
    schema_registry_url: str | None = setting(
        None, parsers.registry_url, "the schema registry, where a format needs one", secret=True
    )
    schema_registry_auth: str | None = setting(
        None,
        parsers.user_password,
        "for the schema registry; `WORKER_SCHEMA_REGISTRY_AUTH_FILE` reads it from a file",
        secret=True,
    )
    embeddings_topic: str | None = setting(
        None, parsers.topic, "where embeddings are kept, to train and to tag again; none when unset"
    )
    models_topic: str | None = setting(
        None,
        parsers.topic,
        "names the live and the shadow model for all workers, which change over while they run "
        "(docs/retraining.md); none when unset",
    )
    create_topics: bool = setting("false", parsers.boolean, "make the topics that are missing")
    partitions: int = setting(
        "8",
        parsers.count(1, 10_000),
        "partitions of topics made by WORKER_CREATE_TOPICS, where uploads does not exist yet",
    )
    start: str = setting(
        "earliest", parsers.one_of("earliest", "latest"), "where a group without committed offsets begins"
    )
    delivery: str = setting(
        "exactly-once",
        parsers.one_of("exactly-once", "at-least-once"),
        "`at-least-once`: for brokers without transactions; an equal tag may be published again",
    )
    commit_interval: float = setting(
        "0.05", parsers.seconds(0.001, 60), "results wait so long for their transaction"
    )
    group_protocol: str = setting(
        "classic",
        parsers.one_of("classic", "consumer"),
        "`classic`: cooperative-sticky; `consumer`: KIP-848, brokers from 4.0, recommended there",
    )
    redis_url: str = setting("redis://localhost:6379/0", parsers.redis_url, "Redis of the view", secret=True)
    redis_password: str | None = setting(
        None,
        parsers.text.described("a password"),
        "instead of one in the URL; `WORKER_REDIS_PASSWORD_FILE` reads it from a file",
        secret=True,
    )
    redis_prefix: str = setting("imgclust:", parsers.any_text, "begins every Redis key")
    redis_keep: float = setting(
        "2592000",
        parsers.seconds(60, 3_153_600_000),
        "a tag stays in Redis so long after its `uploaded_at` (default: 30 days); one that is written later "
        "follows a change, one that is there keeps its time",
    )
    redis_cluster_size: int = setting(
        "10000", parsers.count(1, 100_000_000), "the newest uploads that are listed of each cluster"
    )
    redis_tag: str = setting(
        "full",
        parsers.one_of("full", "compact"),
        "`compact`: tags take a third of the memory in Redis, without URL and attributes (docs/redis.md)",
    )
    model: Path | None = setting(
        None,
        parsers.folder.described("an existing model folder (made by `imgclust fit`)"),
        "the frozen model, or the first one where WORKER_MODELS_TOPIC is set; the encoder is the one that "
        "its manifest names",
    )
    models_folder: Path | None = setting(
        None, parsers.folder, "the folder with the model folders that the models topic names"
    )
    device: str = setting("auto", parsers.device("auto", "cpu", "mps"), "where the encoder runs")
    predict_device: str = setting(
        "cpu",
        parsers.device("cpu"),
        "where clusters are predicted; a GPU is compared with the processor at the start, and refused where "
        "a bit differs",
    )
    encoder_weights: Path | None = setting(
        None,
        parsers.file,
        "the encoder's weights, where no model hub is reached; checked against the model's encoder",
    )
    precision: str | None = setting(
        None,
        parsers.one_of("float32", "bf16", "fp16"),
        "of the encoder; default: the model's, another one is refused",
    )
    max_batch: int = setting("64", parsers.count(1, 4096), "images in a batch at most")
    max_wait: float = setting(
        "0.02", parsers.seconds(0, 10), "a batch leaves when its first image has waited so long"
    )
    fetchers: int = setting(
        str(os.cpu_count() or 1),
        parsers.count(1, 512),
        "processes that fetch and decode (default: the number of cores)",
    )
    slots: int = setting(
        "0", parsers.count(0, 65_536), "decoded images held at once; 0: 4 × WORKER_MAX_BATCH"
    )
    max_in_flight: int = setting(
        "8192",
        parsers.count(1, 24_000),
        "uploads between Kafka and their tag at once, at most: half a second's work, and 1,024 or more",
    )
    skip: frozenset[tuple[int, int]] = setting(
        "",
        parsers.records,
        "records of the uploads topic that become dead letters untried, whatever is in them",
    )
    fetch_allow_networks: tuple[Network, ...] = setting(
        "", parsers.networks, "networks that may be fetched from although they are not public"
    )
    fetch_allow_hosts: tuple[str, ...] = setting(
        "", parsers.host_globs("*.cdn.example"), "when set, only these hosts are fetched from"
    )
    fetch_deny_hosts: tuple[str, ...] = setting(
        "", parsers.host_globs("*.internal.example"), "never fetched from, whatever else allows it"
    )
    fetch_allow_ports: tuple[int, ...] = setting("80 443", parsers.ports, "ports that may be fetched from")
    fetch_allow_files: Path | None = setting(
        None, parsers.folder, "`file:` URLs below this folder are read; none when unset"
    )
    fetch_allow_buckets: tuple[str, ...] = setting(
        "",
        parsers.buckets,
        "`s3://bucket/key` URLs of these are read, with the usual `AWS_…` variables; needs the extra `s3`",
    )
    fetch_nat64_prefixes: tuple[ipaddress.IPv6Network, ...] = setting(
        "",
        parsers.nat64_prefixes,
        "NAT64 prefixes of the worker's own network, beside 64:ff9b::/96: addresses in them are judged by "
        "the IPv4 address that they stand for",
    )
    fetch_proxy: str | None = setting(
        None,
        parsers.proxy,
        "fetches go through this HTTP proxy, which then decides about addresses; `HTTP_PROXY` and its like "
        "are ignored",
        secret=True,
    )
    fetch_timeout: float = setting(
        "10", parsers.seconds(0.1, 600), "for one image in all, with name look-up and redirects"
    )
    fetch_connect_timeout: float = setting("3", parsers.seconds(0.1, 600), "for one connection, TLS included")
    fetch_silence_timeout: float = setting(
        "5", parsers.seconds(0.1, 600), "until the first byte of an answer, and of any silence within it"
    )
    fetch_min_rate: float = setting(
        "4096",
        parsers.number(0, 1e9, "bytes/s"),
        "of a body on average, after its first 2 seconds; slower servers are given up",
    )
    fetch_max_bytes: int = setting(
        str(20 * 1024 * 1024), parsers.count(1024, 1 << 30), "bytes of one image at most"
    )
    fetch_connections: int = setting(
        "64", parsers.count(1, 1024), "downloads at once in each fetcher process"
    )
    fetch_per_host: int = setting(
        "0",
        parsers.count(0, 1024),
        "of these from one host at most: a brake for servers that cannot take more; 0: three quarters, "
        "so that a slow host leaves a quarter to the others",
    )
    max_pixels: int = setting(
        "50000000", parsers.count(1, 1_000_000_000), "pixels of one image at most, before decoding"
    )
    decode_timeout: float = setting(
        "30", parsers.seconds(0.5, 600), "for decoding one image, after which its process is replaced"
    )
    retry_limit: RetryLimits = setting(
        "5", parsers.retry_limits, "tries of a transient failure, the first included"
    )
    retry_first: float = setting(
        "2", parsers.seconds(0.01, 3600), "delay before the second try; it grows fourfold each time"
    )
    retry_max: float = setting("600", parsers.seconds(0.01, 86_400), "longest delay between two tries")
    tag_url: bool = setting("true", parsers.boolean, "`false` leaves `url` out of tags (signed URLs)")
    http: tuple[str, int] = setting("127.0.0.1:9464", parsers.address, "metrics and health")
    wall: tuple[str, int] = setting("127.0.0.1:9465", parsers.address, "the page of `imgclust-worker wall`")
    wall_images: tuple[ImageSource, ...] = setting(
        "https:",
        parsers.image_sources,
        "where the browsers of those who look may load pictures from, "
        "of those that the settings above allow to fetch",
    )
    serve: tuple[str, int] = setting(
        "127.0.0.1:9466", parsers.address, "where `imgclust-worker serve` answers"
    )
    serve_queue: int = setting(
        "128",
        parsers.count(1, 65_536),
        "questions that wait for `imgclust-worker serve` at once; one more gets 429",
    )
    drain_timeout: float = setting(
        "25", parsers.seconds(0, 3600), "after SIGTERM: to finish and commit what is in flight"
    )
    stall_timeout: float = setting(
        "120",
        parsers.seconds(1, 86_400),
        "a stage with work that makes no progress for so long ends the process (exit code 4)",
    )
    trace_share: float = setting(
        "0",
        parsers.number(0, 1, "a share"),
        "of the uploads without a `traceparent` for which a trace begins here (docs/watching.md)",
    )
    log: Literal["auto", "text", "json"] = setting(
        "auto",
        parsers.one_of("auto", "text", "json"),
        "`auto`: text on a terminal, else one JSON object a line",
    )
