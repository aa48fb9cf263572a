"""Settings → the plain values that wings take. Below run, demo and commands the only module that knows
Settings."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from worker.errors import SettingsError, StartError
from worker.kafka.reading import client_log
from worker.kafka.topic_rules import TopicRole
from worker.kafka.topics import TopicsConfig
from worker.messages.avro import avro_decoder, avro_tags
from worker.messages.formats import CONTENT_TYPES, JSON_TAGS, Formats, TagFormat
from worker.messages.json_schema import json_schema_tags
from worker.messages.mapping import Intake, MappedIntake, plain_json
from worker.messages.protobuf import message_class, protobuf_decoder, protobuf_tags
from worker.messages.registry import registry
from worker.messages.text import printable
from worker.settings.settings import Settings

if TYPE_CHECKING:
    from imgclust.fetching.urls import FetchPolicy


def connection(settings: Settings) -> dict[str, Any]:
    return {**settings.kafka, "bootstrap.servers": settings.bootstrap_servers}


def topics_config(settings: Settings) -> TopicsConfig:
    names: dict[TopicRole, str] = {
        "uploads": settings.uploads_topic,
        "tags": settings.tags_topic,
        "retry": settings.retry_topic,
        "dlq": settings.dlq_topic,
    }
    if settings.embeddings_topic is not None:
        names["embeddings"] = settings.embeddings_topic
    if settings.models_topic is not None:
        names["models"] = settings.models_topic
    return TopicsConfig(
        connection(settings), names, settings.group_id, settings.create_topics, settings.partitions
    )


def check_properties(settings: Settings) -> None:
    """Have Kafka's client look at the `WORKER_KAFKA_…` settings; nothing is connected to.

    Raises:
        SettingsError: it knows a name or a value not, or cannot read a key or a certificate.
    """
    try:
        AdminClient(connection(settings), logger=client_log)
    except KafkaException as error:
        raise SettingsError(
            f"Kafka's client refuses a WORKER_KAFKA_… setting: {printable(error.args[0].str())}"
        ) from None


def formats(settings: Settings, client: Any = None) -> Formats:
    """What the settings say.

    Args:
        client: of the schema registry; made from the settings when left out.

    Raises:
        StartError: what a format needs is not installed, or not there.
    """
    fields = settings.uploads_map or {}
    reading, writing, tags_topic = settings.uploads_format, settings.tags_format, settings.tags_topic
    if client is None and needs_registry(settings):
        client = registry(settings.schema_registry_url, settings.schema_registry_auth)
    intake: Intake = MappedIntake(fields) if fields else plain_json
    if reading == "avro":
        intake = MappedIntake(fields, avro_decoder(client, settings.uploads_topic))
    elif reading == "protobuf":
        intake = MappedIntake(
            fields, protobuf_decoder(message_class(settings.uploads_protobuf), settings.uploads_topic)
        )
    tags = JSON_TAGS
    if writing == "json-schema":
        tags = json_schema_tags(client, tags_topic)
    elif writing == "avro":
        tags = avro_tags(client, tags_topic)
    elif writing == "protobuf":
        tags = protobuf_tags(client, tags_topic)
    return Formats(intake, CONTENT_TYPES[reading], tags)


def needs_registry(settings: Settings) -> bool:
    """Uploads in Protobuf need none: the messages' descriptors are at hand."""
    return settings.uploads_format == "avro" or settings.tags_format != "json"


def tag_format(settings: Settings) -> TagFormat:
    """How tags are read and written, for who has nothing to do with uploads.

    Raises:
        StartError: see `formats`.
    """
    return formats(dataclasses.replace(settings, uploads_format="json", uploads_map=None)).tags


def fetch_policy(settings: Settings) -> FetchPolicy:
    """What the fetchers may do.

    Raises:
        StartError: buckets are allowed, but what reads them is not installed.
    """
    from imgclust.fetching.object_store import S3_HINT
    from imgclust.fetching.urls import FetchPolicy

    if settings.fetch_allow_buckets and importlib.util.find_spec("obstore") is None:
        raise StartError(f"WORKER_FETCH_ALLOW_BUCKETS needs the package obstore: {S3_HINT}")

    return FetchPolicy(
        allow_networks=settings.fetch_allow_networks,
        allow_hosts=settings.fetch_allow_hosts,
        deny_hosts=settings.fetch_deny_hosts,
        allow_ports=settings.fetch_allow_ports,
        allow_files=settings.fetch_allow_files,
        allow_buckets=settings.fetch_allow_buckets,
        proxy=settings.fetch_proxy,
        nat64_prefixes=settings.fetch_nat64_prefixes,
        max_bytes=settings.fetch_max_bytes,
        total_timeout=settings.fetch_timeout,
        connect_timeout=settings.fetch_connect_timeout,
        first_byte_timeout=settings.fetch_silence_timeout,
        min_rate=settings.fetch_min_rate,
        per_host=settings.fetch_per_host or None,
    )
