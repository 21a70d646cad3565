"""The routes of the review server, without a socket."""

import pytest
from starlette.applications import Starlette

from pipeline.review.app import make_app
from pipeline.review.session import ReviewSession
from pipeline.review.try_page import TryPage
from pipeline.run.folder import RunFolder
from schemas.score_columns import SCORE_COLUMNS
from tests.helpers.drawn_runs import Scene, grow_run, label_map, make_run
from tests.helpers.review_server import answer_of


@pytest.fixture
def session(tmp_path) -> ReviewSession:
    return ReviewSession(make_run(tmp_path, [Scene("a.png", label_map(0))]))


@pytest.fixture
def app(session) -> Starlette:
    return make_app(session, TryPage(session))


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/image?id=unknown", 404, "no image of this id"),
        ("/photo?id=unknown", 404, "no image of this id"),
        ("/api/items?view=unknown&start=0&limit=9", 410, "filter again"),
        ("/api/items?view=x&start=-1&limit=9", 400, "expected a whole number for start"),
        ("/api/view?order=size", 422, "size is not a sort order"),
        ("/api/view?state=later", 400, "state"),
        ("/api/try/photo?upload=unknown", 422, "upload it again"),
        ("/static/app.py", 404, "no such page"),
    ],
)
def test_error_has_a_status_and_a_message(app, path, status, words):
    answer = answer_of(app, path)
    assert answer.status == status
    assert words in answer.json["error"]


def test_page_of_another_run_is_refused(app, session):
    own, other = ({"x-ovseg-run": key} for key in (session.key, "0123456789abcdef"))
    assert answer_of(app, "/api/view", headers=own).status == 200
    assert answer_of(app, "/api/view", headers=other).status == 409


def test_page_of_another_generation_is_refused(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(2)])
    session = ReviewSession(run)
    app = make_app(session, TryPage(session))
    before = answer_of(app, "/api/run").json["key"]
    old = answer_of(app, f"/segments?id=id-1.png&v={before}")
    grow_run(run, changed=[Scene("1.png", label_map(8))])
    after = answer_of(app, "/api/run").json["key"]
    assert session.key == after != before
    new = answer_of(app, f"/segments?id=id-1.png&v={after}")
    assert (old.status, new.status) == (200, 200)
    assert new.body != old.body
    for kind in ("photo", "segments", "tint"):
        late = answer_of(app, f"/{kind}?id=id-1.png&v={before}")
        assert late.status == 422, "a browser must not keep it beside the old masks"
        assert "load the page again" in late.json["error"]
    for path in ("/api/decisions", "/api/undo"):
        refused = answer_of(app, path, "POST", {"x-ovseg-run": before})
        assert "generation 1 of the run's images, and generation 2" in refused.json["error"]
    named = ReviewSession(RunFolder.open(f"{run.folder.uri}@1"))
    assert named.key == before, "of RUN@1 and RUN at one address"


def test_run_facts_list_the_score_columns(app):
    columns = answer_of(app, "/api/run").json["score_columns"]
    assert [column["name"] for column in columns] == list(SCORE_COLUMNS)
    assert all(column["title"] and column["help"] for column in columns)
