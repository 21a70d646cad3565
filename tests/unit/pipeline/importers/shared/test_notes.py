"""Notes of an import: counted, the first ten named."""

from pipeline.importers.shared.notes import WORDS, NoteKind, Notes


def test_notes_count_all_and_name_the_first_ten():
    notes = Notes()
    for number in range(12):
        notes.add(NoteKind.REPEATED, f"{number}.png")
    notes.add(NoteKind.UNREADABLE, "a.png: too large")
    notes.add(NoteKind.OTHER_SHAPES, "a.png", count=3)
    report = notes.report()
    assert list(report) == [NoteKind.UNREADABLE, NoteKind.OTHER_SHAPES, NoteKind.REPEATED]
    assert report[NoteKind.REPEATED].count == notes[NoteKind.REPEATED] == 12
    assert report[NoteKind.REPEATED].first == tuple(f"{number}.png" for number in range(10))
    assert [note.has_more for note in report.values()] == [False, False, True]
    assert (report[NoteKind.OTHER_SHAPES].count, notes[NoteKind.FRAMES]) == (3, 0)


def test_every_kind_has_words():
    assert set(WORDS) == set(NoteKind)
    assert len(set(WORDS.values())) == len(NoteKind)
