"""Settings in files: what is wrong is named where it stands, and templates are files that work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import SettingsError
from worker.settings.load import load
from worker.settings.table import SETTINGS
from worker.settings.templates import template
from worker.settings.toml_file import read_toml


def refused(tmp_path: Path, text: str) -> str:
    config = tmp_path / "w.toml"
    config.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load({}, config)
    return str(caught.value).replace(str(config), "w.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[worker]\n\nredis_ulr = 1", "w.toml, line 3: redis_ulr is not a setting; did you mean redis_url?"),
        ("max_batch = 'many'", "w.toml, line 1: max_batch must be a whole number between 1 and 4,096"),
        ("[worker]\n'Max_Batch' = 0", "w.toml, line 2: Max_Batch must be a whole number"),
        ("[worker.kafka]\nacks = 1", "w.toml, line 2: kafka.acks cannot be set"),
        ('[worker.kafka]\n"group.id" = "x"', "w.toml, line 2: kafka.group.id cannot be set"),
        ("worker.max_batch = 0", "w.toml, line 1: max_batch must be"),
        ("worker = {max_batch = 0}", "w.toml: max_batch must be"),
        ("worker = 3", "worker must be a table, got 3"),
        ("[worker.kafka.sasl]\nusername_file = '/nowhere'", "kafka.sasl.username_file names '/nowhere'"),
        ("[worker\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(tmp_path: Path, text: str, says: str) -> None:
    """With the file, the line and the key as it was written, also for what is below `[worker.kafka]`."""
    assert says in refused(tmp_path, text)


def test_what_the_environment_says_is_named_by_its_variable(tmp_path: Path) -> None:
    """It wins over the file, and so does its name."""
    config = tmp_path / "w.toml"
    config.write_text("max_batch = 16")
    with pytest.raises(SettingsError, match=r"^WORKER_MAX_BATCH must be"):
        load({"WORKER_MAX_BATCH": "0"}, config)


def uncommented(text: str) -> str:
    return re.sub(r"^# ", "", text, flags=re.MULTILINE)


def test_templates_are_files_that_say_the_defaults(tmp_path: Path) -> None:
    """As TOML and as variables: as they are nothing is set, and with all lines set it is the defaults."""
    config = tmp_path / "w.toml"
    config.write_text(template("toml"))
    assert load({}, config) == load({})
    config.write_text(uncommented(template("toml")))
    found = load({}, config)
    assert found.kafka == {"sasl.username": ""}
    assert found.max_batch == load({}).max_batch
    assert len(read_toml(config)) == len(SETTINGS) + 1

    variables = dict(re.findall(r"^# (WORKER_\w+)=(.*)$", template("env"), flags=re.MULTILINE))
    assert len(variables) == len(SETTINGS) + 1
    del variables["WORKER_KAFKA_SASL_USERNAME"]
    assert load(variables) == load({})


def test_the_template_for_programs_has_every_setting() -> None:
    """Name, variable, default, what is allowed, meaning, and whether it is secret."""
    found = json.loads(template("json"))
    assert [entry["variable"] for entry in found] == [setting.env for setting in SETTINGS]
    assert {entry["name"] for entry in found if entry["secret"]} >= {"redis_password", "fetch_proxy"}


KEYS = st.text("abcdefghijklmnopqrstuvwxyz_.\"' []#=-", max_size=20)


@given(st.lists(st.tuples(KEYS, st.integers()), max_size=6))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, int]]
) -> None:
    """Nothing but a SettingsError, whatever stands in it."""
    config = tmp_path_factory.getbasetemp() / "w.toml"
    config.write_text("\n".join(f"{key} = {value}" for key, value in pairs))
    try:
        load({}, config)
    except SettingsError as error:
        assert "w.toml" in str(error)
