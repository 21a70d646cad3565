"""Access control without a server: which requests reach the application."""

import pytest
from starlette.responses import PlainTextResponse

from pipeline.review.security import Guard, new_token
from tests.helpers.review_server import answer_of

TOKEN = new_token()
APP = PlainTextResponse("reached")


def _guard(token: str | None = None, any_address: bool = False) -> Guard:
    return Guard(APP, hosts=("review.example",), any_address=any_address, token=token)


def test_new_tokens_differ_and_are_long():
    assert len({new_token() for _ in range(9)}) == 9
    assert len(TOKEN) >= 43


@pytest.mark.parametrize("host", ["localhost:1", "[::1]:8420", "127.0.0.1", "REVIEW.example:80"])
def test_known_host_reaches_the_application(host):
    answer = answer_of(_guard(), "/", headers={"host": host})
    assert (answer.status, answer.body) == (200, b"reached")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "review.example.evil", "[", "10.0.0.1"])
def test_unknown_host_is_refused(host):
    assert answer_of(_guard(), "/", headers={"host": host}).status == 421


def test_any_address_accepts_ip_addresses_only():
    guard = _guard(any_address=True)
    assert answer_of(guard, "/", headers={"host": "10.0.0.1:8420"}).status == 200
    assert answer_of(guard, "/", headers={"host": "evil.example"}).status == 421


def test_post_needs_the_own_header():
    assert answer_of(_guard(), "/", "POST").status == 403
    assert answer_of(_guard(), "/", "POST", {"x-ovseg": "1"}).status == 200
    foreign = {"x-ovseg": "1", "origin": "http://evil.example"}
    assert answer_of(_guard(), "/", "POST", foreign).status == 403


def test_token_of_the_url_becomes_a_cookie():
    guard = _guard(TOKEN)
    assert answer_of(guard, "/").status == 403
    assert answer_of(guard, f"/?token={TOKEN[:-1]}").status == 403
    entered = answer_of(guard, f"/try?token={TOKEN}&image=a")
    assert (entered.status, entered.headers["location"]) == (303, "/try?image=a")
    cookie = entered.headers["set-cookie"].partition(";")[0]
    assert answer_of(guard, "/", headers={"cookie": cookie}).body == b"reached"
