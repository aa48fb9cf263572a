"""All settings of a worker, parsed and checked."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from worker.messages.mapping_syntax import FieldSource
from worker.settings.values import ImageSource, Network, RetryLimits


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
    wall_images: tuple[ImageSource, ...]
    drain_timeout: float
    stall_timeout: float
    log: Literal["auto", "text", "json"]
