"""Secrets are hidden in whatever is printed or written, and nothing else is changed."""

import time

import pytest

from schemas.redact import has_password, places_of_secrets, redact, redact_all


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        # user:password@, in any scheme
        ("s3://AKIAEXAMPLE:hunter2@bucket/x", "hunter2"),
        ("https://u:p%40ss@host/x: no such file", "p%40ss"),
        ("sftp://me:hunter2@host/x", "hunter2"),
        ("abfs://box:hunter2@account.dfs.core.windows.net/x", "hunter2"),
        # characters that do not belong into a password
        ("https://me:p@hunter2@host/x", "hunter2"),
        ("https://me:what?hunter2@host/x", "hunter2"),
        ("https://me:hunter2#1@host/x", "hunter2"),
        ("s3://AKIAIOSFODNN7EXAMPLE:wJal/rXUt+nFEMI@bucket/x", "nFEMI"),
        # a bare token
        ("http://hf_SECRETTOKEN123@127.0.0.1:8765/head.safetensors", "SECRETTOKEN"),
        ("git+https://ghp_0123@github.com/a/b", "ghp_0123"),
        # signed queries
        ("https://a.blob/x?sv=2024&sig=abc%2Bdef%3D&se=2026", "abc%2Bdef"),
        ("https://b/x?X-Amz-Signature=deadbeef&X-Amz-Credential=AKIA1", "deadbeef"),
        ("https://h/p.jpg?access=hunter2 now", "hunter2"),
        ("az://c/x?sig=SECRET", "SECRET"),
        ("s3://bucket/run?token=abc", "abc"),
        ("s3://bucket/run?versionId=1&X-Amz-Security-Token=abc", "abc"),
        ("gs://bucket/run?X-Goog-Signature=abc", "abc"),
        ("abfs://box@account.dfs.core.windows.net/x?sv=1&sig=abc", "sig=abc"),
        ("webhdfs://h/x?password=hunter2", "hunter2"),
        ("s3://bucket/run?api_key=hunter2", "hunter2"),
        ("s3://bucket/run?key=hunter2", "hunter2"),
        # outside of URLs
        ("aws_secret_access_key = wJalrXUtn", "wJalrXUtn"),
        ("{'account_key': 'Zm9vYmFy'}", "Zm9vYmFy"),
        ("AccountName=a;AccountKey=Zm9vYmFy;EndpointSuffix=core", "Zm9vYmFy"),
        ("Authorization: Bearer eyJhbGciOi", "eyJhbGciOi"),
        ("RAY_AUTH_TOKEN=0123456789", "0123456789"),
        ("--hub-token=0123456789", "0123456789"),
        ("{'password': 'two words', 'x': 1}", "words"),
        ('{"private_key": "-----BEGIN PRIVATE KEY-----MIIE"}', "MIIE"),
        ("sv=2024&sig=abc%2Bdef%3Dghi&se=1", "abc%2Bdef"),
        ("https://h/x#access_token=hunter2hunter2", "hunter2"),
        ("filecache::https://h/x?sig=hunter2", "hunter2"),
        ("s3://bucket/x?X%2DAmz%2DSignature=hunter2", "hunter2"),
        ("gs://bucket/x?GoogleAccessId=a&X-Goog-Signature=hunter2", "hunter2"),
        ("Authorization: token hunter2hunter2", "hunter2"),
        # tokens of a known form, wherever they stand
        ("cannot read hf_abcdefghijklmnopqrstuvwxyz012345", "abcdefgh"),
        ("/data/hf_abcdefghijklmnopqrstuvwxyz012345/x", "abcdefgh"),
        ("ghp_abcdefghijklmnopqrst github_pat_abcdefghijklmnopqrst", "abcdefgh"),
        ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
        ("AIzaSyA-abcdefghijklmnopqrstuvwxyz0123", "abcdefgh"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefgh", "abcdefgh"),
    ],
)
def test_redact_hides_secrets(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        # Azure's ordinary form, and `@` in keys and names
        "next  ovseg export abfs://photos@account.dfs.core.windows.net/run --to coco",
        "abfss://photos@account.dfs.core.windows.net/run",
        "s3://bucket/icons/cat@2x.png",
        "https://example.org/a@b.png",
        "http://127.0.0.1:8765/me@home:1.jpg",
        "sftp://me@host/photos",
        "/data/me@example.org/cat.jpg",
        # queries without a secret, and names that look like one
        "s3://bucket/run?versionId=3",
        "s3://bucket/what?.jpg",
        "/tmp/what?.jpg a:b@c",
        "/data/token=2/cat.jpg",
        "s3://bucket/token=2/cat.jpg",
        "/data/wasp=2/house: no such file",
        "/data/horse: no such file",
        # messages
        "s3://bucket/photos/cat.jpg: not_found",
        "expected 2 labels, got 3: give `labels` or `vocabulary`",
        "method.name: unknown method 'clip_dyi'. Did you mean 'clip_diy'?",
        "speed 12 images/s: se 3.2",
        "key_norm: tokens; class_token_weight: 0.3; sig=3.2",
        "hf-hub:laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        "/data/hf_models/sk-learn-examples-of-2024/x.jpg",
    ],
)
def test_redact_leaves_other_text_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("read s3://a:b@c/d and x@y:z", "read s3://***@c/d and x@y:z"),
        ("https://h/p.jpg?X-Amz-Signature=abc now", "https://h/p.jpg?*** now"),
        ("http://TOKEN@h/p.jpg: not found", "http://***@h/p.jpg: not found"),
        ("cannot read az://c/x?sv=1&sig=abc: not found", "cannot read az://c/x?***: not found"),
    ],
)
def test_redact_leaves_the_place_of_a_url_readable(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://me:hunter2@bucket/x", True),
        ("abfs://box@account.dfs.core.windows.net/x", False),
        ("http://TOKEN@host/x", False),
        ("http://host:80/a@b.jpg", False),
        ("s3://bucket/x", False),
        ("/data/a:b@c", False),
    ],
)
def test_has_password(url: str, expected: bool) -> None:
    assert has_password(url) is expected


SETTINGS = {
    "images": "https://h/list.csv?sig=hunter2hunter2",
    "out": "s3://bucket/run",
    "more": {
        "maps": ["/data", ["s3://k:hunter2@bucket/x"]],
        "https://me:hunter2@h/": 1,
        "storage_options": {"secret": "hunter2", "account_key": "", "token": 7, "anon": "no"},
    },
    "page": "https://h/list.php?id=3",
}


def test_secrets_in_lists_in_keys_and_under_names_of_secrets_are_hidden() -> None:
    hidden = redact_all(SETTINGS)
    assert "hunter2" not in repr(hidden)
    assert hidden["out"] == "s3://bucket/run"
    options = {"secret": "***", "account_key": "", "token": 7, "anon": "no"}
    assert hidden["more"]["storage_options"] == options
    assert redact_all(hidden) == hidden


def test_places_of_secrets_are_named_without_them() -> None:
    assert places_of_secrets(SETTINGS) == [
        "images",
        "more.maps.1.0",
        "more.https://***@h/",
        "more.storage_options.secret",
    ]
    assert places_of_secrets(redact_all({"images": "https://h/list.php?id=3"})) == []


@pytest.mark.parametrize(
    "part",
    [
        *("a.", "a+", "a:", "a://", "http://a", "s3://a:b", "://", "http://?", "x://y?token=a&"),
        *("-token", "x-amz-", "token=", "token ", "bearer ", "basic aaaaaa ", "x://y?x-amz-"),
        *("s3://AKIA0123456789:x/", "s3://AKIAAAAAAAAA", "?a", "&key", ":@", "'\"", "eyJ-"),
    ],
)
def test_time_grows_with_the_length_of_a_text_only(part: str) -> None:
    """A file's name of 100 kB must not stop who prints it."""

    def seconds(length: int) -> float:
        text = (part * (length // len(part) + 1))[:length]
        began_s = time.process_time()
        redact(text)
        has_password(text)
        return time.process_time() - began_s

    assert seconds(80_000) < 8 * max(seconds(20_000), 0.02)
