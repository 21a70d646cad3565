"""The routes of the review server, without a socket."""

import pytest
from starlette.applications import Starlette

from pipeline.review.app import make_app
from pipeline.review.session import ReviewSession
from pipeline.review.try_page import TryPage
from schemas.score_columns import SCORE_COLUMNS
from tests.helpers.drawn_runs import Scene, label_map, make_run
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


def test_run_facts_list_the_score_columns(app):
    columns = answer_of(app, "/api/run").json["score_columns"]
    assert [column["name"] for column in columns] == list(SCORE_COLUMNS)
    assert all(column["title"] and column["help"] for column in columns)
