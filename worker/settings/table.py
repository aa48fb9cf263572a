"""The table of settings: name, default, what is allowed, meaning."""

from __future__ import annotations

import dataclasses
import ipaddress
import os

from worker.messages.mapping_syntax import parse_map
from worker.settings.parsers import (
    Parser,
    _address,
    _bool,
    _bucket,
    _existing,
    _existing_folder,
    _host_glob,
    _image_sources,
    _integer,
    _list,
    _message,
    _nat64,
    _number,
    _one_of,
    _proxy,
    _records,
    _redis_url,
    _registry_url,
    _retry_limits,
    _text,
    _topic,
    _user_password,
)

PREFIX = "WORKER_"


KAFKA_PREFIX = "WORKER_KAFKA_"


# What delivery rests on (docs/delivery.md): an operator's value would break a promise in silence.
KAFKA_REFUSED = {
    "bootstrap.servers": "set WORKER_BOOTSTRAP_SERVERS instead",
    "group.id": "set WORKER_GROUP_ID instead",
    "group.protocol": "set WORKER_GROUP_PROTOCOL instead",
    "partition.assignment.strategy": "set WORKER_GROUP_PROTOCOL instead",
    "enable.auto.commit": "offsets are committed when results are acknowledged, never by a timer",
    "enable.auto.offset.store": "offsets are committed when results are acknowledged, never by a timer",
    "auto.offset.reset": "set WORKER_START instead",
    "enable.idempotence": "order within a partition needs it",
    "acks": "a result counts when all in-sync replicas have it",
    "transactional.id": "it is made for each process",
    "transaction.timeout.ms": "it bounds how long a killed worker's transaction hides tags",
    "delivery.report.only.error": "delivery counts acknowledgements",
    "enable.partition.eof": "delivery rests on where a topic ends",
    "isolation.level": "readers of results must not see aborted ones",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    `default` is the text that an operator would write, None where there is none. `allowed` completes the
    sentence "… must be …".
    """

    name: str  # the field of Settings; in the environment WORKER_<NAME>
    default: str | None
    parse: Parser
    allowed: str
    meaning: str
    secret: bool = False

    @property
    def env(self) -> str:
        return PREFIX + self.name.upper()


_TOPIC = "a Kafka topic name: 1–249 of A–Z a–z 0–9 . _ -"


_SECONDS = "seconds between {} and {}"


def _seconds(low: float, high: float) -> tuple[Parser, str]:
    return _number(low, high), _SECONDS.format(f"{low:g}", f"{high:g}")


def _count(low: int, high: int) -> tuple[Parser, str]:
    return _integer(low, high), f"a whole number between {low:,} and {high:,}"


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "bootstrap_servers",
        "localhost:9092",
        _text,
        "host:port, several separated by commas",
        "Kafka's brokers",
    ),
    Setting(
        "group_id", "imgclust", _text, "a name", "consumer group of the tagger; the view's is `<group>.view`"
    ),
    Setting("uploads_topic", "uploads", _topic, _TOPIC, "where upload events are read"),
    Setting("tags_topic", "tags", _topic, _TOPIC, "where tags are published"),
    Setting("retry_topic", "uploads.retry", _topic, _TOPIC, "pending retries"),
    Setting("dlq_topic", "uploads.dlq", _topic, _TOPIC, "where dead letters go"),
    Setting(
        "uploads_map",
        None,
        parse_map,
        "fields and where they are, like id=photo.id,url=photo.cdn.original",
        "where an event has the fields of an upload (docs/events.md); those that are not named are as usual",
    ),
    Setting(
        "uploads_format",
        "json",
        _one_of("json", "avro", "protobuf"),
        "json, avro or protobuf",
        "of upload events; the latter two as a schema registry's serialisers write them",
    ),
    Setting(
        "uploads_protobuf",
        None,
        _message,
        "FILE.desc:package.Message, with a file of protoc --include_imports --descriptor_set_out=FILE.desc",
        "the Protobuf message of upload events; default: imgclust.Upload",
    ),
    Setting(
        "tags_format",
        "json",
        _one_of("json", "avro", "protobuf"),
        "json, avro or protobuf",
        "of tags in the topic (Redis has JSON)",
    ),
    Setting(
        "schema_registry_url",
        None,
        _registry_url,
        "http://host:port or https://host:port, several separated by commas",
        "the schema registry, where a format needs one",
        secret=True,
    ),
    Setting(
        "schema_registry_auth",
        None,
        _user_password,
        "user:password",
        "for the schema registry; `WORKER_SCHEMA_REGISTRY_AUTH_FILE` reads it from a file",
        secret=True,
    ),
    Setting(
        "embeddings_topic",
        None,
        _topic,
        _TOPIC,
        "where embeddings are kept, to train and to tag again; none when unset",
    ),
    Setting(
        "models_topic",
        None,
        _topic,
        _TOPIC,
        "names the live and the shadow model for all workers, which change over while they run "
        "(docs/retraining.md); none when unset",
    ),
    Setting("create_topics", "false", _bool, "true or false", "make the topics that are missing"),
    Setting(
        "partitions",
        "8",
        *_count(1, 10_000),
        "partitions of topics made by WORKER_CREATE_TOPICS, where uploads does not exist yet",
    ),
    Setting(
        "start",
        "earliest",
        _one_of("earliest", "latest"),
        "earliest or latest",
        "where a group without committed offsets begins",
    ),
    Setting(
        "delivery",
        "exactly-once",
        _one_of("exactly-once", "at-least-once"),
        "exactly-once or at-least-once",
        "`at-least-once`: for brokers without transactions; an equal tag may be published again",
    ),
    Setting("commit_interval", "0.05", *_seconds(0.001, 60), "results wait so long for their transaction"),
    Setting(
        "group_protocol",
        "classic",
        _one_of("classic", "consumer"),
        "classic or consumer",
        "`classic`: cooperative-sticky; `consumer`: KIP-848, brokers from 4.0, recommended there",
    ),
    Setting(
        "redis_url",
        "redis://localhost:6379/0",
        _redis_url,
        "redis://host:port/db, rediss://… (TLS) or unix://path",
        "Redis of the view",
        secret=True,
    ),
    Setting(
        "redis_password",
        None,
        _text,
        "a password",
        "instead of one in the URL; `WORKER_REDIS_PASSWORD_FILE` reads it from a file",
        secret=True,
    ),
    Setting("redis_prefix", "imgclust:", str, "text", "begins every Redis key"),
    Setting(
        "redis_keep",
        "2592000",
        *_seconds(60, 3_153_600_000),
        "a tag stays in Redis so long after its `uploaded_at` (default: 30 days); one that is written later "
        "follows a change, one that is there keeps its time",
    ),
    Setting(
        "redis_cluster_size",
        "10000",
        *_count(1, 100_000_000),
        "the newest uploads that are listed of each cluster",
    ),
    Setting(
        "model",
        None,
        _existing_folder,
        "an existing model folder (made by `imgclust fit`)",
        "the frozen model, or the first one where WORKER_MODELS_TOPIC is set; the encoder is the one that "
        "its manifest names",
    ),
    Setting(
        "models_folder",
        None,
        _existing_folder,
        "an existing folder",
        "the folder with the model folders that the models topic names",
    ),
    Setting(
        "device",
        "auto",
        _one_of("auto", "cpu", "cuda", "mps"),
        "auto, cpu, cuda or mps",
        "where the encoder runs",
    ),
    Setting(
        "encoder_weights",
        None,
        _existing,
        "an existing file",
        "the encoder's weights, where no model hub is reached; checked against the model's encoder",
    ),
    Setting(
        "precision",
        None,
        _one_of("float32", "bf16", "fp16"),
        "float32, bf16 or fp16",
        "of the encoder; default: the model's, another one is refused",
    ),
    Setting("max_batch", "64", *_count(1, 4096), "images in a batch at most"),
    Setting("max_wait", "0.02", *_seconds(0, 10), "a batch leaves when its first image has waited so long"),
    Setting(
        "fetchers",
        str(os.cpu_count() or 1),
        *_count(1, 512),
        "processes that fetch and decode (default: the number of cores)",
    ),
    Setting("slots", "0", *_count(0, 65_536), "decoded images held at once; 0: 4 × WORKER_MAX_BATCH"),
    Setting(
        "max_in_flight",
        "1024",
        *_count(1, 24_000),
        "uploads between Kafka and their tag at once; reading pauses there and resumes at half",
    ),
    Setting(
        "skip",
        "",
        _records,
        "partition:offset, several separated by spaces",
        "records of the uploads topic that become dead letters untried, whatever is in them",
    ),
    Setting(
        "fetch_allow_networks",
        "",
        _list(ipaddress.ip_network),
        "networks like 10.1.0.0/16, separated by spaces",
        "networks that may be fetched from although they are not public",
    ),
    Setting(
        "fetch_allow_hosts",
        "",
        _list(_host_glob),
        "host names or globs like *.cdn.example, separated by spaces",
        "when set, only these hosts are fetched from",
    ),
    Setting(
        "fetch_deny_hosts",
        "",
        _list(_host_glob),
        "host names or globs like *.internal.example, separated by spaces",
        "never fetched from, whatever else allows it",
    ),
    Setting(
        "fetch_allow_ports",
        "80 443",
        _list(_integer(1, 65_535)),
        "port numbers separated by spaces",
        "ports that may be fetched from",
    ),
    Setting(
        "fetch_allow_files",
        None,
        _existing_folder,
        "an existing folder",
        "`file:` URLs below this folder are read; none when unset",
    ),
    Setting(
        "fetch_allow_buckets",
        "",
        _list(_bucket),
        "names of S3 buckets, separated by spaces",
        "`s3://bucket/key` URLs of these are read, with the usual `AWS_…` variables; needs the extra `s3`",
    ),
    Setting(
        "fetch_nat64_prefixes",
        "",
        _list(_nat64),
        "IPv6 networks like 2001:db8:64::/96 (/32, /40, /48, /56, /64 or /96), separated by spaces",
        "NAT64 prefixes of the worker's own network, beside 64:ff9b::/96: addresses in them are judged by "
        "the IPv4 address that they stand for",
    ),
    Setting(
        "fetch_proxy",
        None,
        _proxy,
        "http://host:port or https://host:port",
        "fetches go through this HTTP proxy, which then decides about addresses; `HTTP_PROXY` and its like "
        "are ignored",
        secret=True,
    ),
    Setting(
        "fetch_timeout",
        "10",
        *_seconds(0.1, 600),
        "for one image in all, with name look-up and redirects",
    ),
    Setting("fetch_connect_timeout", "3", *_seconds(0.1, 600), "for one connection, TLS included"),
    Setting(
        "fetch_silence_timeout",
        "5",
        *_seconds(0.1, 600),
        "until the first byte of an answer, and of any silence within it",
    ),
    Setting(
        "fetch_min_rate",
        "4096",
        _number(0, 1e9),
        "bytes/s between 0 and 1e+09",
        "of a body on average, after its first 2 seconds; slower servers are given up",
    ),
    Setting("fetch_max_bytes", str(20 * 1024 * 1024), *_count(1024, 1 << 30), "bytes of one image at most"),
    Setting("fetch_connections", "64", *_count(1, 1024), "downloads at once in each fetcher process"),
    Setting(
        "fetch_per_host",
        "0",
        *_count(0, 1024),
        "of these from one host at most: a brake for servers that cannot take more; 0: three quarters, "
        "so that a slow host leaves a quarter to the others",
    ),
    Setting(
        "max_pixels", "50000000", *_count(1, 1_000_000_000), "pixels of one image at most, before decoding"
    ),
    Setting(
        "decode_timeout",
        "30",
        *_seconds(0.5, 600),
        "for decoding one image, after which its process is replaced",
    ),
    Setting(
        "retry_limit",
        "5",
        _retry_limits,
        "a number of 1 to 100, then code=number for other ones: 5 not-found=8",
        "tries of a transient failure, the first included",
    ),
    Setting(
        "retry_first", "2", *_seconds(0.01, 3600), "delay before the second try; it grows fourfold each time"
    ),
    Setting("retry_max", "600", *_seconds(0.01, 86_400), "longest delay between two tries"),
    Setting("tag_url", "true", _bool, "true or false", "`false` leaves `url` out of tags (signed URLs)"),
    Setting("http", "127.0.0.1:9464", _address, "host:port", "metrics and health"),
    Setting("wall", "127.0.0.1:9465", _address, "host:port", "the page of `imgclust-worker wall`"),
    Setting(
        "wall_images",
        "https:",
        _image_sources,
        "sources like https: or http://*.cdn.example:8080 separated by spaces, or none",
        "where the browsers of those who look may load pictures from, "
        "of those that the settings above allow to fetch",
    ),
    Setting(
        "drain_timeout", "25", *_seconds(0, 3600), "after SIGTERM: to finish and commit what is in flight"
    ),
    Setting(
        "stall_timeout",
        "120",
        *_seconds(1, 86_400),
        "a stage with work that makes no progress for so long ends the process (exit code 4)",
    ),
    Setting(
        "log",
        "auto",
        _one_of("auto", "text", "json"),
        "auto, text or json",
        "`auto`: text on a terminal, else one JSON object a line",
    ),
)


def settings_table() -> str:
    """The README's table of settings, in Markdown."""
    lines = ["| name | default | allowed | meaning |", "|---|---|---|---|"]
    for s in SETTINGS:
        default = {"fetchers": "cores", "slots": "4 × batch"}.get(s.name, s.default)
        shown = "–" if default in (None, "") else f"`{default}`"
        lines.append(f"| `{s.env}` | {shown} | {s.allowed} | {s.meaning} |")
    lines.append(
        "| `WORKER_KAFKA_<PROPERTY>` | – | any librdkafka property, `_` for `.` | "
        "`WORKER_KAFKA_SASL_USERNAME=…`; with `_FILE` at the end its value is read from that file; "
        "those that delivery rests on are refused |"
    )
    return "\n".join(lines)


def settings_text() -> str:
    """The same for a terminal."""
    blocks = []
    for s in SETTINGS:
        default = f" (default: {s.default})" if s.default not in (None, "") else ""
        blocks.append(f"{s.env}{default}\n    {s.meaning}; {s.allowed}")
    blocks.append(
        f"{KAFKA_PREFIX}<PROPERTY>\n    any librdkafka property, _ for . ; _FILE at the end reads a file"
    )
    return "\n".join(blocks)
