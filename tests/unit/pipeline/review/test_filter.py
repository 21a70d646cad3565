"""Filters of the grid: by score columns, as the table of these has them, by lists and by words."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.curation.image_lists import write_list
from pipeline.curation.images import annotated_images
from pipeline.review.filter import LISTED, SEARCHED, Filter, ScoreFilter, Searches, select
from pipeline.review.index import ReviewIndex
from pipeline.review.session import ReviewSession
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from schemas.score_columns import SCORE_COLUMNS
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run, odd_scenes
from tests.helpers.imageless_runs import begin_run, make_rows, make_tally, unit_vector

FILTERABLE = [column for column in SCORE_COLUMNS.values() if column.filterable]


@pytest.mark.parametrize("column", FILTERABLE, ids=lambda column: column.name)
def test_select_images_with_a_mask_within_the_limits_of_a_column(column, tmp_path):
    index = ReviewIndex(make_run(tmp_path, odd_scenes(), RunSpec()))
    values = index.segments.scores[column.name]
    low, high = np.quantile(values, (0.3, 0.6)).tolist()
    wanted = ScoreFilter.model_validate(
        {f"{column.name}_low": str(low), f"{column.name}_high": str(high)}
    )
    assert wanted.limits() == {column.name: (low, high)}
    rows = select(index, np.zeros(len(index), np.uint8), wanted, index.by_priority)
    within = index.segments.row[(values >= low) & (values <= high)]
    assert sorted(rows) == sorted(set(within.tolist()))
    assert 0 < len(rows) < len(index)


@pytest.mark.parametrize("column", FILTERABLE, ids=lambda column: column.name)
def test_limit_outside_the_range_of_a_column_is_refused(column):
    with pytest.raises(ValidationError, match=f"{column.name}_low"):
        ScoreFilter.model_validate({f"{column.name}_low": column.low - 1})


def test_whole_range_does_not_limit():
    assert Filter().limits() == {}
    assert ScoreFilter.model_validate({"mean_prob_low": 0, "mean_prob_high": 1}).limits() == {}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    scenes = [Scene(f"{n}.png", label_map(n), 0.4 + n / 20) for n in range(6)]
    return make_run(tmp_path, [*scenes, Scene("broken.png", None)])


def shown(session: ReviewSession, wanted: Filter) -> list[tuple[str, str]]:
    items = session.items(session.open_view(wanted)["view"], 0, 99)
    return [(item["path"], item["note"]) for item in items]


def test_list_is_shown_in_its_order_with_its_notes_or_in_another_order(run: RunFolder):
    session = ReviewSession(run)
    assert session.facts()["lists"] == []
    write_list(annotated_images(run), np.array([4, 1, 3]), {"note": ["x", "y", "z"]}, "mine")
    assert session.facts()["lists"] == ["mine"]
    listed = Filter(listed="mine", order=LISTED)
    assert shown(session, listed) == [("4.png", "x"), ("1.png", "y"), ("3.png", "z")]
    by_path = Filter(listed="mine", order="path")
    assert shown(session, by_path) == [("1.png", "y"), ("3.png", "z"), ("4.png", "x")]
    assert shown(session, Filter(listed="mine", order=LISTED, text="3")) == [("3.png", "z")]
    assert len(shown(session, Filter())) == 6
    write_list(annotated_images(run), np.array([0]), {"note": ["a longer note"]}, "mine")
    assert shown(session, listed) == [("0.png", "a longer note")], "written again, read again"
    for name in ("other", "../mine", "mine.csv"):
        with pytest.raises(UserError, match="is not in the run folder"):
            session.open_view(Filter(listed=name))
    with pytest.raises(UserError, match="not a sort order"):
        session.open_view(Filter(order=LISTED))


def test_damaged_list_is_an_error_and_unknown_images_are_left_out(run: RunFolder):
    folder = run.folder.child("exports/lists")
    folder.atomic_write("odd.csv", b"uri,path,note\nx,nothing.png,a\nx,2.png,b\nx,broken.png,c\n")
    folder.atomic_write("wrong.csv", b"\xff\xfe")
    folder.atomic_write("Not a list.csv", b"uri,path\n")
    session = ReviewSession(run)
    assert session.facts()["lists"] == ["odd", "wrong"]
    assert shown(session, Filter(listed="odd", order=LISTED)) == [("2.png", "b")]
    assert shown(session, Filter(listed="odd", failed="any")) == [("broken.png", "c")]
    with pytest.raises(UserError, match="the list wrong"):
        session.open_view(Filter(listed="wrong"))


def test_long_notes_take_the_memory_of_their_texts(run: RunFolder):
    rows = [f"x,{n}.png," for n in range(2000)]
    rows[1] += "a note of a hundred thousand letters".ljust(100_000, ".")
    text = "\n".join(("uri,path,note", *rows)).encode()
    run.folder.child("exports/lists").atomic_write("long.csv", text)
    session = ReviewSession(run)
    tracemalloc.start()
    notes = shown(session, Filter(listed="long", order=LISTED))
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(note) for _, note in notes] == [0, 100_000, 0, 0, 0, 0]
    assert most_bytes < 20e6, "not rows x the longest note"


def test_session_of_a_list_shows_its_images_alone(run: RunFolder, tmp_path: Path):
    images = annotated_images(run)
    out = write_list(images, np.array([5, 2]), {"note": ["", ""]}, "x", str(tmp_path / "some.csv"))
    session = ReviewSession(run, only=out)
    assert sorted(path for path, _ in shown(session, Filter())) == ["2.png", "5.png"]
    facts = session.facts()
    assert facts["progress"]["total"] == 2
    whole = ReviewSession(run).image("id-5.png")
    assert session.image("id-5.png")["segments"] == whole["segments"]
    counts = {label["name"]: label["images"] for label in facts["labels"]}
    assert max(counts.values()) <= 2
    assert session.picture("id-2.png", "segments") == ReviewSession(run).picture(
        "id-2.png", "segments"
    )


@pytest.fixture
def searchable(tmp_path: Path) -> RunFolder:
    """Ten images, of which two failed and have no vector."""
    run = begin_run(str(tmp_path / "run"))
    for shard in run.shards():
        rows = make_rows(shard)
        run.commit(shard.index, "test", rows, make_tally(rows))
    return run


def like_the_fourth(words: str) -> np.ndarray:
    assert words == "red fish"
    return np.array(unit_vector(f"{3:016x}"), np.float32)


def ranked(ids: list[str]) -> list[tuple[str, str]]:
    """Return the images and notes that `like_the_fourth` should lead to."""
    cosines = {name: float(np.dot(unit_vector(name), like_the_fourth("red fish"))) for name in ids}
    best = sorted(ids, key=lambda name: (-cosines[name], name))
    return [(name, f"cosine {cosines[name]:.3f}") for name in best]


def test_words_rank_the_images_that_have_a_vector(searchable: RunFolder):
    session = ReviewSession(searchable)
    assert session.facts()["has_vectors"]
    wanted = Filter(search=" red fish ", order=SEARCHED)
    view = session.open_view(wanted, like_the_fourth)
    assert (view["passing"], view["without_vector"]) == (8, 0)
    items = session.items(view["view"], 0, 99)
    ids = [f"{number:016x}" for number in (0, 1, 3, 4, 5, 7, 8, 9)]
    assert [(item["image_id"], item["note"]) for item in items] == ranked(ids)
    assert len({item["note"] for item in items}) > 2
    best = [item["path"] for item in items]
    part = Filter(search="red fish", order=SEARCHED, text="0004")
    assert session.open_view(part, like_the_fourth)["passing"] == 1
    images = annotated_images(searchable)
    places = [images.paths.to_pylist().index(path) for path in best[:3]]
    write_list(images, np.array(places[::-1]), {"note": ["x"] * 3}, "mine")
    both = session.open_view(wanted.model_copy(update={"listed": "mine"}), like_the_fourth)
    shown_items = session.items(both["view"], 0, 99)
    assert [item["path"] for item in shown_items] == best[:3]
    assert shown_items[0]["note"] == "cosine 1.000"
    with pytest.raises(UserError, match="not a sort order"):
        session.open_view(Filter(order=SEARCHED), like_the_fourth)


def test_words_are_embedded_once(searchable: RunFolder):
    asked: list[str] = []

    def embed(words: str) -> np.ndarray:
        asked.append(words)
        return like_the_fourth(words)

    searches = Searches(ReviewSession(searchable).snapshot.index)
    first = searches.get("red fish", embed)
    assert np.array_equal(searches.get("red fish ", embed).rows, first.rows)
    assert asked == ["red fish"]


def test_run_without_vectors_offers_no_search(run: RunFolder):
    session = ReviewSession(run)
    assert not session.facts()["has_vectors"]
    with pytest.raises(UserError, match="its images have no vectors"):
        session.open_view(Filter(search="red fish", order=SEARCHED), like_the_fourth)
