"""Notes beside committed offsets, and the run that they describe."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.kafka.offsets import MAX_METADATA_BYTES
from worker.retagging.runs import Note, Run, last_number

notes = st.builds(
    Note,
    run=st.integers(1, 2**31),
    model=st.text("0123456789abcdef", min_size=12, max_size=12),
    target=st.text("aZ09-_", max_size=22),
    begin=st.integers(0, 2**63 - 1),
    end=st.integers(0, 2**63 - 1),
    tags=st.integers(0, 2**63 - 1),
    deletions=st.integers(0, 2**63 - 1),
    left_out=st.dictionaries(
        st.sampled_from(["of another encoder", "not embeddings"]), st.integers(0, 2**63)
    ),
)


@given(notes)
def test_a_note_is_read_as_it_was_written(note: Note) -> None:
    """And fits into what brokers keep beside an offset."""
    assert Note.read(note.text()) == note
    assert len(note.text().encode()) < MAX_METADATA_BYTES


@given(st.text(max_size=40))
def test_what_is_no_note_is_none(text: str) -> None:
    """Whatever somebody else committed."""
    assert Note.read(text) is None


def test_a_run_is_whole_or_none() -> None:
    """A partition without a note, or with one of another run, and there is no run."""
    run = Run.begin(3, "m", "id", {0: (0, 5), 1: (2, 2)})
    committed = {p: (part.offset, part.note.text()) for p, part in run.parts.items()}
    assert Run.read(committed, [0, 1]) == run
    assert (run.total, run.left, run.unfinished) == (5, 5, [0])
    assert Run.read(committed, [0, 1, 2]) is None
    other = Run.begin(4, "m", "id", {1: (2, 2)}).parts[1]
    assert Run.read({**committed, 1: (2, other.note.text())}, [0, 1]) is None
    assert last_number({**committed, 1: (2, other.note.text())}) == 4
    assert last_number({0: (7, "")}) == 0
