"""Kafka with SASL and TLS, Redis with a password, an ACL user and TLS: it works, and no secret is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
import redis
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.support import certificates, preloaded, redis_server
from tests.support.certificates import Certificates
from tests.support.kafka_cluster import Topics
from tests.support.origin import Origin
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import WorkerProcess, settings_for
from worker.demo.backends import JavaKafka, find_java, free_ports
from worker.errors import SettingsError
from worker.settings.load import load
from worker.view.client import connect
from worker.wiring import check_properties, fetch_policy

USER, PASSWORD = "imgclust-user", "k@fka:p/a?s#s%s"  # what no URL, property or format may stumble over
REDIS_USER, REDIS_PASSWORD = "view", "r3dis-s@cret/%40"
NEVER = "never-to-be-shown"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class SecuredKafka(JavaKafka):
    """A broker that also listens with SASL in the clear, and with SASL over TLS."""

    def __init__(self, home: Path, made: Certificates) -> None:
        super().__init__(home)
        self.sasl_port, self.tls_port = free_ports(2)
        plain, control = f"PLAINTEXT://{self.bootstrap}", f"CONTROLLER://127.0.0.1:{self._controller}"
        secured = f"SASL://127.0.0.1:{self.sasl_port},TLS://localhost:{self.tls_port}"
        self._options = {
            "listeners": f"{plain},{control},{secured}",
            "advertised.listeners": f"{plain},{secured}",
            "listener.security.protocol.map":
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
            **{
                f"listener.name.{name}.scram-sha-{bits}.sasl.jaas.config": SCRAM
                for name in ("sasl", "tls")
                for bits in (256, 512)
            },
            "listener.name.tls.ssl.keystore.type": "PEM",
            "listener.name.tls.ssl.keystore.location": str(made.both),
        }  # fmt: skip

    def add_user(self, name: str, password: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            info = ScramCredentialInfo(mechanism, 4096)
            change = UserScramCredentialUpsertion(name, info, password.encode())
            for future in admin.alter_user_scram_credentials([change]).values():
                future.result(PATIENCE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def kafka(made: Certificates) -> Iterator[SecuredKafka]:
    home = os.environ.get("KAFKA_HOME")
    if not home or not find_java():
        pytest.skip("no Apache Kafka: set KAFKA_HOME, with Java 17 installed")
    with SecuredKafka(Path(home), made) as broker:
        broker.add_user(USER, PASSWORD)
        yield broker


@pytest.fixture(scope="module")
def store(made: Certificates) -> Iterator[tuple[RedisServer, int]]:
    """A Redis with a password for its default user, one more user, and a port for TLS."""
    (port,) = free_ports(1)
    tls = ["--tls-port", str(port), "--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key)]
    tls += ["--tls-ca-cert-file", str(made.authority), "--tls-auth-clients", "no"]
    try:
        stack = redis_server.running(*tls)
        server = stack.__enter__()
    except RuntimeError as error:
        if "Bad directive" not in str(error):
            raise
        pytest.skip("this Redis has no TLS, as the Valkey of the wheel: install Debian's redis-server")
    client = server.client()
    # what the view needs, and nothing else: its own keys, no administration
    client.acl_setuser(
        REDIS_USER, enabled=True, passwords=[f"+{REDIS_PASSWORD}"], keys=["imgclust:*"],
        categories=["+@all", "-@admin", "-@dangerous"], commands=["+info"],
    )  # fmt: skip
    client.config_set("requirepass", REDIS_PASSWORD)
    yield server, port
    stack.__exit__(None, None, None)


def quoted(text: str) -> str:
    return quote(text, safe="")


def secured(
    way: str, kafka: SecuredKafka, store: tuple[RedisServer, int], made: Certificates, folder: Path
) -> dict[str, str]:
    """Settings of one of two operators: with files and no TLS; with variables, an ACL user and TLS."""
    server, tls_port = store
    if way == "files":
        (folder / "kafka").write_text(PASSWORD + "\n")
        (folder / "redis").write_text(REDIS_PASSWORD + "\n")
        return {
            "WORKER_BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka.sasl_port}",
            "WORKER_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "WORKER_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
            "WORKER_KAFKA_SASL_USERNAME": USER,
            "WORKER_KAFKA_SASL_PASSWORD_FILE": str(folder / "kafka"),
            "WORKER_REDIS_URL": server.url,
            "WORKER_REDIS_PASSWORD_FILE": str(folder / "redis"),
        }
    login = f"{REDIS_USER}:{quoted(REDIS_PASSWORD)}"
    return {
        "WORKER_BOOTSTRAP_SERVERS": f"localhost:{kafka.tls_port}",
        "WORKER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "WORKER_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "WORKER_KAFKA_SASL_USERNAME": USER,
        "WORKER_KAFKA_SASL_PASSWORD": PASSWORD,
        "WORKER_KAFKA_SSL_CA_LOCATION": str(made.authority),
        "WORKER_REDIS_URL": f"rediss://{login}@localhost:{tls_port}/0?ssl_ca_certs={made.authority}",
    }


def told(text: str) -> list[str]:
    """The secrets that a text tells."""
    secrets = (PASSWORD, REDIS_PASSWORD, quoted(REDIS_PASSWORD), NEVER)
    return [secret for secret in secrets if secret in text]


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.parametrize("way", ["files", "tls"])
def test_uploads_are_tagged_and_viewed_behind_logins(
    way: str, kafka: SecuredKafka, store: tuple[RedisServer, int], made: Certificates, tmp_path: Path,
    model_folder: Path, origin: Origin, held_out: list[str],
) -> None:  # fmt: skip
    """Consumer, producer and view log in: with SCRAM-SHA-256 and passwords in files, or SCRAM-SHA-512 over
    TLS and an ACL user; the log tells no secret."""
    topics = Topics(kafka)
    settings = settings_for(topics, "", model_folder, origin.port)
    settings |= secured(way, kafka, store, made, tmp_path)
    ids = [f"{way}-{i}" for i in range(8)]
    for upload_id, file in zip(ids, held_out, strict=False):
        topics.send(upload_id.encode(), orjson.dumps({"id": upload_id, "url": origin.url(f"/{file}")}))
    topics.flush()
    client = store[0].client(password=REDIS_PASSWORD)
    with WorkerProcess(tmp_path, settings) as worker:
        keys = [f"imgclust:tag:{upload_id}" for upload_id in ids]
        wait_for("the view has every tag", lambda: client.exists(*keys) == len(keys) or worker.process.poll())
        assert client.exists(*keys) == len(keys), worker.text()
        assert worker.terminate() == 0, worker.text()
    assert not told(worker.log.read_text())


def check(settings: dict[str, str]) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WORKER_")}
    done = preloaded.run("worker", "check", env={**clean, **settings}, timeout=120)
    assert done.returncode == 3
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
def test_wrong_logins_are_told_without_the_password(
    kafka: SecuredKafka, store: tuple[RedisServer, int], made: Certificates, tmp_path: Path
) -> None:
    """Wrong passwords, and an authority that did not sign the servers: `check` says what failed only."""
    settings = secured("tls", kafka, store, made, tmp_path)
    other = certificates.make(tmp_path / "other")
    wrong = {
        "WORKER_KAFKA_SASL_PASSWORD": NEVER,
        "WORKER_REDIS_URL": settings["WORKER_REDIS_URL"].replace(str(made.authority), str(other.authority)),
    }
    text = check({**settings, **wrong})
    assert "no  Kafka:" in text
    assert "Authentication failed" in text
    assert "no  Redis: ConnectionError" in text
    assert "certificate verify failed" in text
    assert not told(text)
    with pytest.raises(redis.AuthenticationError) as refused:
        connect(settings["WORKER_REDIS_URL"].replace(quoted(REDIS_PASSWORD), NEVER)).ping()
    assert not told(str(refused.value))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SSL_KEY_PEM", NEVER, "ssl.key.pem failed"),
        ("SASL_PASSWRD", NEVER, 'No such configuration property: "sasl.passwrd"'),
        ("SSL_CA_LOCATION", "/does/not/exist", "ssl.ca.location"),
        ("SASL_MECHANISM", "SCRAM", "SASL mechanism"),
    ],
)
def test_properties_that_kafkas_client_refuses(name: str, value: str, says: str) -> None:
    """A misspelt name, a key that is none, a file that is missing: a wrong setting, told without a secret."""
    settings = load(
        {
            "WORKER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "WORKER_KAFKA_SASL_MECHANISM": "PLAIN",
            "WORKER_KAFKA_SASL_USERNAME": USER, "WORKER_KAFKA_SASL_PASSWORD": PASSWORD,
            f"WORKER_KAFKA_{name}": value,
        }
    )  # fmt: skip
    with pytest.raises(SettingsError) as caught:
        check_properties(settings)
    assert says in str(caught.value)
    assert not told(str(caught.value))


def test_no_secret_is_in_a_repr() -> None:
    """Settings may be printed."""
    settings = load(
        {
            "WORKER_KAFKA_SASL_PASSWORD": PASSWORD, "WORKER_REDIS_URL": f"redis://:{NEVER}@localhost",
            "WORKER_REDIS_PASSWORD": NEVER, "WORKER_FETCH_PROXY": f"http://u:{NEVER}@proxy.example:3128",
        }
    )  # fmt: skip
    assert not told(repr(settings) + str(settings) + repr(fetch_policy(settings)))
