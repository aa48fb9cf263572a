"""`check --event`: what an event would be read as, and what a dead letter lacks."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.commands.check_event import check_event, findings
from worker.commands.findings import Finding
from worker.errors import SettingsError
from worker.settings.load import load


def finding(folder: Path, event: object, **env: str) -> Finding:
    file = folder / "sample.json"
    file.write_bytes(event if isinstance(event, bytes) else json.dumps(event).encode())
    (found,) = findings(load({f"WORKER_{name}": value for name, value in env.items()}), file)
    return found


def test_an_upload_is_shown(tmp_path: Path) -> None:
    """Its fields as the worker reads them, and which of them it has made up."""
    found = finding(
        tmp_path, {"id": "größe", "url": "https://cdn.example/1.jpg", "attributes": {"lang": "de"}}
    )
    assert found.ok
    for part in ("id größe", "url https://cdn.example/1.jpg", "the event has none", "attributes lang=de"):
        assert part in found.found
    assert "a deletion" in finding(tmp_path, {"id": "a", "deleted": True}).found


def test_a_map_is_tried(tmp_path: Path) -> None:
    """With the settings as they are: what the map finds is shown."""
    event = {"photo": {"id": 7, "cdn": {"original": "https://cdn.example/7.jpg"}}, "ts": 1764018000}
    found = finding(tmp_path, event, UPLOADS_MAP="id=photo.id,url=photo.cdn.original,uploaded_at=ts")
    assert found.ok
    assert "id 7; url https://cdn.example/7.jpg; uploaded_at 2025-11-24T21:00:00.000Z" in found.found


@pytest.mark.parametrize(
    ("event", "code", "advice"),
    [
        ({"photo": {"id": 7, "a b": 1}}, "bad-event", 'it has photo.id, photo."a b"; WORKER_UPLOADS_MAP'),
        ({"id": "a"}, "bad-event", "it has id; WORKER_UPLOADS_MAP"),
        ({}, "bad-event", "it has no fields"),
        (b"\x00\x01binary", "bad-event", "WORKER_UPLOADS_FORMAT"),
        ({"id": "a", "url": "http://10.0.0.1/"}, "url-forbidden", "WORKER_FETCH_ALLOW_"),
        ({"id": "a", "url": "https://x.example:8080/"}, "url-forbidden", "WORKER_FETCH_ALLOW_"),
        ({"id": "a", "url": "file:///etc/passwd"}, "url-forbidden", "WORKER_FETCH_ALLOW_"),
    ],
)
def test_a_dead_letter_is_named_with_what_to_do(
    tmp_path: Path, event: object, code: str, advice: str
) -> None:
    """Its code and reason, and the fields that the event has instead."""
    found = finding(tmp_path, event)
    assert not found.ok
    assert f"would be a dead letter, {code}: " in found.found
    assert advice in found.remedy


def test_what_settings_allow_is_allowed(tmp_path: Path) -> None:
    """Folders, ports and networks."""
    event = {"id": "a", "url": "http://10.0.0.1:8080/x.jpg"}
    assert finding(tmp_path, event, FETCH_ALLOW_NETWORKS="10.0.0.0/8", FETCH_ALLOW_PORTS="8080").ok
    assert finding(tmp_path, {"id": "a", "url": "file:///x/y"}, FETCH_ALLOW_FILES=str(tmp_path)).ok


@given(st.binary(max_size=200) | st.dictionaries(st.text(max_size=8), st.text(max_size=8)).map(json.dumps))
def test_any_file_has_an_answer(tmp_path_factory: pytest.TempPathFactory, event: bytes | str) -> None:
    """One line that can be shown, whatever is in the file."""
    text = event.encode() if isinstance(event, str) else event
    found = finding(tmp_path_factory.mktemp("any"), text)
    assert (found.found + found.remedy).isprintable()


def test_where_the_event_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input; a file that is not there is a wrong argument."""
    stdin = io.TextIOWrapper(io.BytesIO(b'{"id": "a", "url": "https://x.example/"}\n'))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert check_event(load({}), Path("-")) == 0
    with pytest.raises(SettingsError, match="--event"):
        check_event(load({}), tmp_path / "nothing.json")
