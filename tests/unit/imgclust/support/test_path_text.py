"""`imgclust.support.path_text`: every file name has one text, and the text leads back to it."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.support.path_text import from_text, is_sound, to_text

# with much of what the notation itself is made of
NAMES = st.lists(
    st.sampled_from(["\\", "u", "udce4", "u005c", "005c", "\udce4", "\ud800", "ä", "/", "a"])
).map("".join)


@given(st.text() | NAMES | st.binary().map(os.fsdecode))
def test_there_and_back(path: str) -> None:
    """Whatever the name's bytes, also where it looks like our own notation."""
    text = to_text(path)
    text.encode()
    assert is_sound(text)
    assert from_text(text) == path
    assert from_text(from_text(json.loads(json.dumps(text)))) or not path


@given(NAMES, NAMES)
def test_two_names_have_two_texts(one: str, other: str) -> None:
    """Nothing is folded."""
    assert (to_text(one) == to_text(other)) == (one == other)


@pytest.mark.parametrize("name", ["a/b.png", "März/ü.png", "C:\\users\\dir", "100%\\n", ""])
def test_usual_names_are_their_own_text(name: str) -> None:
    """Only what needs it looks different."""
    assert to_text(name) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"M\xe4rz/p.png", "M\\udce4rz/p.png"),
        (b"M\\udce4rz", "M\\u005cudce4rz"),
        (b"\\u005c", "\\u005cu005c"),
    ],
)
def test_how_it_is_written(name: bytes, text: str) -> None:
    """As Python writes lone surrogates; a backslash that would be misread is spelled out."""
    assert to_text(os.fsdecode(name)) == text
