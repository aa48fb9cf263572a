"""Every setting: its name, unit, default and meaning. The only module that reads the environment.

`SETTINGS` is the one table: the parser, `--help`, the README's table and `imgclust-worker check` are all
made from it. A wrong value is reported with its name, the value and what is allowed, all wrong ones at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import os
import re
import tomllib
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from imgclust.fetching.addresses import check_nat64_prefix
from worker.errors import SettingsError
from worker.kafka.pending_retries import RetryLimits
from worker.messages.mapping import FieldSource, MapError, parse_map
from worker.messages.upload import ERROR_CODES, printable
from worker.wall.image_sources import Source

PREFIX = "WORKER_"
KAFKA_PREFIX = "WORKER_KAFKA_"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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
class Settings:
    """All settings, parsed and checked; `repr` shows no secret."""

    bootstrap_servers: str
    group_id: str
    kafka: Mapping[str, str] = dataclasses.field(repr=False)
    uploads_topic: str
    tags_topic: str
    retry_topic: str
    dlq_topic: str
    uploads_map: Mapping[str, FieldSource] | None
    uploads_format: str
    uploads_protobuf: tuple[Path, str] | None
    tags_format: str
    schema_registry_url: str | None = dataclasses.field(repr=False)
    schema_registry_auth: str | None = dataclasses.field(repr=False)
    embeddings_topic: str | None
    models_topic: str | None
    create_topics: bool
    partitions: int
    start: str
    delivery: str
    commit_interval: float
    group_protocol: str
    redis_url: str = dataclasses.field(repr=False)
    redis_password: str | None = dataclasses.field(repr=False)
    redis_prefix: str
    redis_keep: float
    redis_cluster_size: int
    model: Path | None
    models_folder: Path | None
    device: str
    encoder_weights: Path | None
    precision: str | None
    max_batch: int
    max_wait: float
    fetchers: int
    slots: int
    max_in_flight: int
    skip: frozenset[tuple[int, int]]
    fetch_allow_networks: tuple[Network, ...]
    fetch_allow_hosts: tuple[str, ...]
    fetch_deny_hosts: tuple[str, ...]
    fetch_allow_ports: tuple[int, ...]
    fetch_allow_files: Path | None
    fetch_allow_buckets: tuple[str, ...]
    fetch_nat64_prefixes: tuple[ipaddress.IPv6Network, ...]
    fetch_proxy: str | None = dataclasses.field(repr=False)
    fetch_timeout: float
    fetch_connect_timeout: float
    fetch_silence_timeout: float
    fetch_min_rate: float
    fetch_max_bytes: int
    fetch_connections: int
    fetch_per_host: int
    max_pixels: int
    decode_timeout: float
    retry_limit: RetryLimits
    retry_first: float
    retry_max: float
    tag_url: bool
    http: tuple[str, int]
    wall: tuple[str, int]
    wall_images: tuple[Source, ...]
    drain_timeout: float
    stall_timeout: float
    log: Literal["auto", "text", "json"]


Parser = Callable[[str], Any]


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


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError
    return value.strip()


def _one_of(*allowed: str) -> Parser:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError
        return value

    return parse


def _bool(value: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]


def _number(low: float, high: float) -> Parser:
    def parse(value: str) -> float:
        number = float(value)
        if not (math.isfinite(number) and low <= number <= high):
            raise ValueError
        return number

    return parse


def _integer(low: int, high: int) -> Parser:
    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _list(item: Parser) -> Parser:
    def parse(value: str) -> tuple[Any, ...]:
        return tuple(item(part) for part in re.split(r"[\s,]+", value.strip()) if part)

    return parse


def _retry_limits(value: str) -> RetryLimits:
    count = _integer(1, 100)
    default, *others = value.split()
    by_code = dict(part.split("=") for part in others)
    if not by_code.keys() <= set(ERROR_CODES):
        raise ValueError
    return RetryLimits(count(default), {code: count(number) for code, number in by_code.items()})


def _records(value: str) -> frozenset[tuple[int, int]]:
    named = _list(str)(value)
    pairs = [part.split(":") for part in named]
    number = _integer(0, 2**63 - 1)
    return frozenset((number(partition), number(offset)) for partition, offset in pairs)


def _host_glob(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.*_\-\[\]:]+", value):
        raise ValueError
    return value.lower()


def _bucket(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", value):
        raise ValueError
    return value


def _nat64(value: str) -> ipaddress.IPv6Network:
    prefix = ipaddress.IPv6Network(value)
    check_nat64_prefix(prefix)
    return prefix


def _proxy(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    return value


def _image_sources(value: str) -> tuple[Source, ...]:
    sources: tuple[Source, ...] = () if value.strip().lower() == "none" else _list(Source.parse)(value)
    return sources


def _existing_folder(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_dir():
        raise ValueError
    return path.resolve()


def _existing(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.exists():
        raise ValueError
    return path


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    number = int(port)
    if not host or not 0 <= number <= 65535:
        raise ValueError
    return host.strip("[]"), number


def _redis_url(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.path):
        raise ValueError
    return value


def _registry_url(value: str) -> str:
    for url in value.split(","):
        parts = urllib.parse.urlsplit(url.strip())
        if parts.scheme not in ("http", "https", "mock") or not (parts.hostname or parts.scheme == "mock"):
            raise ValueError
    return value


def _user_password(value: str) -> str:
    user, colon, _ = value.partition(":")
    if not (user and colon):
        raise ValueError
    return value


def _message(value: str) -> tuple[Path, str]:
    path, _, name = value.rpartition(":")
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII):
        raise ValueError
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError
    return file, name


def _topic(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", value) or value in (".", ".."):
        raise ValueError
    return value


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

_BY_ENV = {setting.env: setting for setting in SETTINGS}
_INDIRECT = "_FILE"


def _read_file(name: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError(f"{name} names {printable(path)}, which cannot be read: {reason}") from None


def _kafka(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    properties: dict[str, str] = {}
    for name, value in environment.items():
        if not name.startswith(KAFKA_PREFIX):
            continue
        text = value
        bare = name.removeprefix(KAFKA_PREFIX)
        if bare.endswith(_INDIRECT):
            bare = bare.removesuffix(_INDIRECT)
            try:
                text = _read_file(name, value)
            except SettingsError as error:
                problems.append(str(error))
                continue
        key = bare.lower().replace("_", ".")
        if key in KAFKA_REFUSED:
            problems.append(f"{name} cannot be set: {KAFKA_REFUSED[key]}")
        else:
            properties[key] = text
    return properties


def _from_toml(path: Path) -> dict[str, str]:
    """A TOML file's `[worker]` table (or the file itself), as if it were environment variables."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(
            f"the configuration file {str(path)!r} cannot be read: {error.strerror}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"configuration file {str(path)!r} is not TOML: {error}") from None
    table = document.get("worker", document)
    values: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):  # [worker.kafka]
            values.update(
                {f"{PREFIX}{key}_{k}".upper().replace(".", "_"): _plain(v) for k, v in value.items()}
            )
        else:
            values[f"{PREFIX}{key}".upper()] = _plain(value)
    return values


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return str(value)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _BY_ENV, 1)
    return f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "")


def _parse(setting: Setting, environment: Mapping[str, str]) -> Any:
    text, source = environment.get(setting.env) or None, setting.env  # set to nothing is as good as not set
    indirect = setting.env + _INDIRECT
    if setting.secret and indirect in environment:
        text, source = _read_file(indirect, environment[indirect]), indirect
    if text is None:
        text = setting.default
    if text is None:
        return None
    try:
        return setting.parse(text)
    except (ValueError, KeyError, OverflowError) as error:
        shown = "the value given" if setting.secret else printable(text)
        why = f" ({error})" if isinstance(error, MapError) else ""
        raise SettingsError(f"{source} must be {setting.allowed}; got {shown}{why}") from None


def load(environment: Mapping[str, str] | None = None, config: Path | None = None) -> Settings:
    """Read and check every setting.

    Args:
        environment: variables to read, `os.environ` by default; they win over the file.
        config: a TOML file with the same names, without prefix, in lower case.

    Raises:
        SettingsError: one line for every setting that is wrong or unknown.
    """
    given = {**(_from_toml(config) if config else {}), **(os.environ if environment is None else environment)}
    given = {k: v for k, v in given.items() if k.startswith(PREFIX)}
    problems: list[str] = []
    values: dict[str, Any] = {"kafka": _kafka(given, problems)}
    known = set(_BY_ENV) | {s.env + _INDIRECT for s in SETTINGS if s.secret}
    problems += [_unknown(n) for n in sorted(given) if n not in known and not n.startswith(KAFKA_PREFIX)]
    for setting in SETTINGS:
        try:
            values[setting.name] = _parse(setting, given)
        except SettingsError as error:
            problems.append(str(error))
    if not problems:
        values["slots"] = values["slots"] or 4 * values["max_batch"]
        problems += _contradictions(values)
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**values)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    found = []
    if values["slots"] < values["max_batch"]:
        found.append(
            f"WORKER_SLOTS must be at least WORKER_MAX_BATCH ({values['max_batch']}), "
            f"or no batch is ever full; got {values['slots']}"
        )
    if values["slots"] < values["fetchers"]:
        found.append(
            f"WORKER_SLOTS must be at least WORKER_FETCHERS ({values['fetchers']}), one for each; "
            f"got {values['slots']}"
        )
    if values["retry_max"] < values["retry_first"]:
        found.append(
            f"WORKER_RETRY_MAX must be at least WORKER_RETRY_FIRST ({values['retry_first']:g}); "
            f"got {values['retry_max']:g}"
        )
    registered = values["uploads_format"] == "avro" or values["tags_format"] != "json"
    if registered and values["schema_registry_url"] is None:
        found.append("WORKER_SCHEMA_REGISTRY_URL must be set for these formats; the schemas are there")
    if values["uploads_protobuf"] is not None and values["uploads_format"] != "protobuf":
        found.append("WORKER_UPLOADS_PROTOBUF says nothing unless WORKER_UPLOADS_FORMAT is protobuf")
    if values["models_topic"] is not None and values["models_folder"] is None:
        found.append(
            "WORKER_MODELS_TOPIC needs WORKER_MODELS_FOLDER: the folder with the models that it names"
        )
    roles = ("uploads", "tags", "retry", "dlq", "embeddings", "models")
    topics = [topic for role in roles if (topic := values[f"{role}_topic"]) is not None]
    if len(set(topics)) < len(topics):
        found.append(f"the topics must have different names; got {', '.join(topics)}")
    return found


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
