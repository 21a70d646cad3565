"""The review server: access control and limits, over a real socket."""

import io
import socket
from urllib.parse import quote

import pytest
from PIL import Image

from pipeline.corrections.log import ReviewLog
from pipeline.review.server import Address, listen
from pipeline.review.try_page import MAX_UPLOAD_BYTES
from schemas.errors import ErrorCode
from schemas.records import ShardRows
from schemas.tables import to_records
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run
from tests.helpers.review_server import Client, read_picture, serving

HOSTILE_PATHS = [
    "/static/../app.py",
    "/static/..%2Fapp.py",
    "/static/%2e%2e/%2e%2e/app.py",
    "/static/....//app.py",
    "/static//etc/passwd",
    "/static/%00",
    "/../../../../etc/passwd",
    "/etc/passwd",
    "/photo?id=../../../etc/passwd",
    "/photo?id=/etc/passwd",
    "/photo?id=file:///etc/passwd",
    "/photo?id=%00",
    "/photo",
    "/api/image?id=" + quote("photos/plain.jpg"),
    "/api/try/photo?upload=../../etc/passwd",
    "/run.yaml",
    "/static/",
    "/static",
    "/photo/",
]


def test_socket_is_known_to_be_tcp(run):
    """asyncio sets TCP_NODELAY on sockets that say that they are TCP, and accepted ones inherit it.

    Without it every answer took 40 ms longer.
    """
    listening = listen(run, Address(port=0))
    with listening.socket as waiting:
        assert waiting.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_path_never_leads_to_a_file(client, path):
    answer = client.request("GET", path)
    assert answer.status in (307, 404, 422), answer.body[:200]
    assert b"root:" not in answer.body
    assert b"import" not in answer.body


def test_every_answer_has_the_security_headers(client):
    paths = ["/", "/try", "/static/app.css", "/static/review.js", "/api/run", "/nothing"]
    for path in paths:
        headers = client.request("GET", path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    pages = [client.request("GET", path).body for path in ("/", "/try")]
    for page in pages:
        assert page.count(b"<script") == page.count(b'src="/static/') == 1
        assert b"style=" not in page
        assert b"http" not in page


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "0.0.0.0", "1.2.3.4"],
)
def test_foreign_host_name_is_refused(client, host):
    answer = client.request("GET", "/api/run", headers={"Host": host})
    assert answer.status in (400, 421)
    assert b"labels" not in answer.body


def test_loopback_names_are_accepted(client):
    for host in (f"127.0.0.1:{client.port}", f"localhost:{client.port}", f"[::1]:{client.port}"):
        assert client.request("GET", "/api/run", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Ovseg": "0"},
        {"X-Ovseg": "1", "Origin": "http://evil.example"},
        {"X-Ovseg": "1", "Origin": "null"},
        {"X-Ovseg": "1", "Origin": "http://127.0.0.1:1"},
        {"X-Ovseg": "1", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_post_needs_the_own_header_and_origin(run, headers):
    with serving(run) as client:
        body = b'{"decisions": [{"image_id": "id-0.png", "action": "accept"}]}'
        assert client.request("POST", "/api/decisions", body, headers).status == 403
        own = {"X-Ovseg": "1", "Origin": client.base, "Sec-Fetch-Site": "same-origin"}
        for method, path in (("PUT", "/api/decisions"), ("DELETE", "/"), ("POST", "/")):
            assert client.request(method, path, b"", own).status == 405
        assert ReviewLog(run).decisions() == []
        assert client.request("POST", "/api/decisions", body, own).status == 200
        behind_a_proxy = own | {"Origin": client.base.replace("http:", "https:")}
        assert client.request("POST", "/api/undo", b"{}", behind_a_proxy).status == 200


def test_token_is_needed_off_the_loopback_and_becomes_a_cookie(run):
    with serving(run, Address("0.0.0.0", 0)) as client:
        token = client.url.partition("token=")[2]
        assert len(token) >= 43
        for path in ("/", "/api/run", "/photo?id=id-0.png", "/static/app.css"):
            assert client.get(path).status == 403
        for wrong in ("", token[:-1], token[::-1], token + "A", "%ff", "ü"):
            assert client.request("GET", f"/?token={quote(wrong, safe='%')}").status == 403
            headers = {"Cookie": f"ovseg-{client.port}={quote(wrong)}"}
            assert client.request("GET", "/", headers=headers).status == 403
        entered = client.request("GET", f"/?token={token}&x=1")
        assert (entered.status, entered.headers["location"]) == (303, "/?x=1")
        away = client.request("GET", f"//evil.example/?token={token}")
        assert (away.status, away.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        known = Client(client.url, {"Cookie": cookie.partition(";")[0]})
        assert known.get("/api/run").status == 200
        assert known.decide(image_id="id-0.png", action="accept").status == 200
        assert client.decide(image_id="id-1.png", action="accept").status == 403
        assert known.request("GET", "/", headers={"Host": "evil.example"}).status == 421
        assert known.request("GET", "/", headers={"Host": "10.0.0.7:1"}).status == 403


def test_body_above_the_limit_is_refused(client):
    def sent(path, size):
        headers = {"X-Ovseg": "1", "Content-Length": str(size)}
        return client.request("POST", path, b"", headers)

    assert sent("/api/try/upload", MAX_UPLOAD_BYTES + 1).status == 413
    assert sent("/api/decisions", (1 << 20) + 1).status == 413
    endless = (b"x" * (1 << 20) for _ in range(3))
    assert client.request("POST", "/api/decisions", endless, {"X-Ovseg": "1"}).status == 413
    assert client.post("/api/decisions", b"{").status == 400


def test_browser_that_disconnects_logs_no_error(run, caplog):
    with serving(run) as client:
        head = f"POST /api/try/upload HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nX-Ovseg: 1\r\n"
        with socket.create_connection(("127.0.0.1", client.port)) as leaving:
            leaving.sendall(f"{head}Content-Length: 1000\r\n\r\nsome of it".encode())
            leaving.shutdown(socket.SHUT_WR)
            assert leaving.recv(1000) == b""
        assert client.get("/api/run").status == 200
    assert caplog.text == ""


def test_upload_must_be_an_image_within_limits(client):
    def file(size, kind="PNG"):
        buffer = io.BytesIO()
        Image.new("1", size).save(buffer, kind)
        return buffer.getvalue()

    bomb = client.post("/api/try/upload", file((9000, 9000)))
    assert (bomb.status, bomb.json["code"]) == (422, "too_large")
    assert client.post("/api/try/upload", b"#!/bin/sh").json["code"] == "not_an_image"
    assert client.post("/api/try/upload", b"").json["code"] == "empty_file"
    noise = io.BytesIO()
    Image.effect_noise((90, 60), 50).save(noise, "PNG")
    assert client.post("/api/try/upload", noise.getvalue()[:900]).json["code"] == "truncated"
    taken = client.post("/api/try/upload", file((90, 60))).json
    assert (taken["height"], taken["width"]) == (60, 90)
    shown = client.get("/api/try/photo", upload=taken["upload"])
    assert read_picture(shown.body).shape[:2] == (60, 90)


def test_credentials_are_not_shown(tmp_path, run):
    uri = "https://user:secret@host/photo.jpg?X-Amz-Signature=secret"
    rows = [Scene("a.png", label_map(1))]
    made = make_run(tmp_path / "signed", rows, RunSpec(unfinished=(0,)))
    (shard,) = made.shards()
    (marker,) = (one for one in run.done().values() if one.shard == 0)
    image = next(iter(to_records("images", run.shard_table(marker, "images"))))
    image = image.model_copy(
        update={
            **shard.refs[0].model_dump(include={"image_id", "path", "uri"}),
            "status": "error",
            "error_code": ErrorCode.STORAGE_ERROR,
            "error_message": f"cannot read {uri}",
        }
    )
    failed = ShardRows(images=(image,), scores=(), annotations=())
    made.commit(0, "test", failed, marker.tally.model_copy(update={"num_images": 1}))
    with serving(made) as client:
        for answer in (
            client.get("/api/image", id=image.image_id),
            client.get("/segments", id=image.image_id),
            client.get("/photo", id=image.image_id),
        ):
            assert b"secret" not in answer.body
