"""worker.settings.load: every setting is checked, and a wrong one is named."""

from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.settings.load import load
from worker.settings.settings import Settings
from worker.settings.table import SETTINGS, settings_table, settings_text


def refused(**env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load({f"WORKER_{name}": value for name, value in env.items()})
    return str(caught.value)


def test_the_defaults_are_valid_and_are_what_the_table_says() -> None:
    """Nothing set: no error; and each field of Settings has its row in both tables."""
    settings = load({})
    assert settings.max_batch == 64
    assert settings.slots == 256
    assert settings.http == ("127.0.0.1", 9464)
    fields = set(Settings.__dataclass_fields__) - {"kafka"}
    assert fields == {s.name for s in SETTINGS}
    for setting in SETTINGS:
        assert setting.env in settings_table()
        assert setting.env in settings_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_BATCH", "0"), ("MAX_BATCH", "6.5"), ("MAX_WAIT", "-1"), ("MAX_WAIT", "nan"),
        ("START", "newest"),
        ("DEVICE", "tpu"), ("DEVICE", "cuda:"), ("DEVICE", "cuda:-1"), ("DEVICE", "mps:0"),
        ("HTTP", "9464"), ("HTTP", "x:99999"), ("MODEL", "/does/not/exist"),
        ("FETCH_ALLOW_NETWORKS", "10.0.0.1/8"),
        ("FETCH_NAT64_PREFIXES", "2001:db8::/33"), ("FETCH_NAT64_PREFIXES", "10.0.0.0/8"),
        ("FETCH_ALLOW_BUCKETS", "s3://uploads"), ("FETCH_PROXY", "socks5://user:pw@x"),
        ("FETCH_ALLOW_PORTS", "80 http"), ("FETCH_ALLOW_HOSTS", "http://x"), ("TAG_URL", "maybe"),
        ("UPLOADS_TOPIC", "a/b"), ("REDIS_URL", "http://x"), ("DELIVERY", "twice"), ("GROUP_ID", " "),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: str) -> None:
    """Each error has the setting's name, what it must be, and the value (unless it is secret)."""
    message = refused(**{name: value})
    assert message.startswith(f"WORKER_{name} must be ")
    secret = name in ("REDIS_URL", "FETCH_PROXY")
    assert (ascii(value) in message) != secret


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:1", "cuda:15"])
def test_a_device_may_be_one_of_several(device: str) -> None:
    """Which GPU is said as torch says it."""
    assert load({"WORKER_DEVICE": device}).device == device


def test_all_problems_are_told_at_once() -> None:
    """Two wrong values and a misspelt name: three lines."""
    assert len(refused(MAX_BATCH="x", LOG="y", REDIS_ULR="z").splitlines()) == 3


def test_contradictions_are_found() -> None:
    """Slots for less than a batch, a retry that shrinks, one topic for two purposes."""
    assert "WORKER_SLOTS must be at least WORKER_MAX_BATCH" in refused(SLOTS="8")
    assert "WORKER_RETRY_MAX must be at least" in refused(RETRY_MAX="1")
    assert "different names" in refused(TAGS_TOPIC="uploads")


def test_kafka_properties_pass_through_but_not_those_that_delivery_rests_on(tmp_path: Path) -> None:
    """`_` becomes `.`, `_FILE` reads a file; enable.auto.commit and its like are refused with the reason."""
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    settings = load(
        {"WORKER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "WORKER_KAFKA_SASL_PASSWORD_FILE": str(secret)}
    )
    assert settings.kafka == {"security.protocol": "SASL_SSL", "sasl.password": "hunter2"}
    assert "hunter2" not in repr(settings)
    for name in ("ENABLE_AUTO_COMMIT", "TRANSACTIONAL_ID", "GROUP_ID", "ISOLATION_LEVEL", "ACKS"):
        assert "cannot be set" in refused(**{f"KAFKA_{name}": "x"})


def test_secrets_come_from_files_and_are_not_shown(tmp_path: Path) -> None:
    """WORKER_REDIS_PASSWORD_FILE; neither repr nor an error shows a password or a URL that may hold one."""
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    url = "redis://user:hunter3@host/0"
    settings = load({"WORKER_REDIS_PASSWORD_FILE": str(secret), "WORKER_REDIS_URL": url})
    assert settings.redis_password == "hunter2"
    assert "hunter" not in repr(settings)
    assert "cannot be read" in refused(REDIS_PASSWORD_FILE=str(tmp_path / "none"))
    secret.write_text("\n")
    assert "must be a password" in refused(REDIS_PASSWORD_FILE=str(secret))


def test_a_variable_set_to_nothing_is_as_good_as_none() -> None:
    """Compose and Kubernetes pass on what is not set as an empty text."""
    nothing = load({s.env: "" for s in SETTINGS})
    assert nothing == load({})


def test_a_file_gives_settings_and_the_environment_wins(tmp_path: Path) -> None:
    """TOML with the same names in lower case; lists, booleans and a [worker.kafka] table."""
    config = tmp_path / "worker.toml"
    config.write_text(
        '[worker]\nmax_batch = 32\ntag_url = false\nfetch_allow_ports = [80, 8080]\nlog = "json"\n'
        '[worker.kafka]\n"security.protocol" = "SSL"\n'
    )
    settings = load({"WORKER_MAX_BATCH": "16"}, config)
    assert (settings.max_batch, settings.tag_url, settings.log) == (16, False, "json")
    assert settings.fetch_allow_ports == (80, 8080)
    assert settings.kafka == {"security.protocol": "SSL"}


@pytest.mark.parametrize("text", ["[worker\n", "[worker]\nmax_batch = 0\n", "[worker]\nbatch = 3\n"])
def test_a_wrong_file_is_a_clear_error(tmp_path: Path, text: str) -> None:
    """Not TOML, a wrong value, an unknown name."""
    config = tmp_path / "worker.toml"
    config.write_text(text)
    with pytest.raises(SettingsError):
        load({}, config)
    with pytest.raises(SettingsError, match="cannot be read"):
        load({}, tmp_path / "none.toml")


def test_limits_of_single_codes() -> None:
    """WORKER_RETRY_LIMIT: one number for all, others by code."""
    limits = load({"WORKER_RETRY_LIMIT": "5 not-found=8 fetch-timeout=2"}).retry_limit
    assert [limits.of(code) for code in ("fetch-failed", "not-found", "fetch-timeout")] == [5, 8, 2]


@pytest.mark.parametrize(
    ("name", "value"),
    [("RETRY_LIMIT", "5 nothing=8"), ("RETRY_LIMIT", "5 not-found"), ("RETRY_LIMIT", "0"), ("SKIP", "7"),
     ("SKIP", "1:-2"), ("SKIP", "1:2:3"), ("SKIP", "a:b")],
)  # fmt: skip
def test_what_names_codes_and_records_is_checked(name: str, value: str) -> None:
    """An unknown code or half a position is refused with the setting's name, not ignored."""
    with pytest.raises(SettingsError, match=f"WORKER_{name} must be"):
        load({f"WORKER_{name}": value})


def test_named_records() -> None:
    """WORKER_SKIP: partition:offset, several of them."""
    assert load({"WORKER_SKIP": "3:1234, 0:7"}).skip == {(3, 1234), (0, 7)}


def test_a_brake_for_one_host() -> None:
    """WORKER_FETCH_PER_HOST bounds the downloads from one host; unset it leaves a quarter to the others."""
    from worker.wiring import fetch_policy

    assert fetch_policy(load({"WORKER_FETCH_PER_HOST": "3"})).host_share(64) == 3
    assert fetch_policy(load({})).host_share(64) == 48
