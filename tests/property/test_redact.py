"""No secret of a URL survives `redact`, whatever stands around it."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.redact import redact

SECRET = st.text("abcXYZ019_~+=%-", min_size=6, max_size=20).map(lambda text: f"S{text}Q")
"""What may stand unquoted in a URL; begins and ends like no word of the templates."""
WITH_SECRET = st.sampled_from(
    [
        "s3://me:{}@bucket/x",
        "ftp://me:{}@host",
        "http://{}@host:80/x.jpg",
        "https://{}@host/a@b.jpg",
        "https://host/x?{}",
        "https://host/x?any={}&other=1",
        "s3://bucket/run?token={}",
        "az://c/x?sv=1&sig={}",
        "gs://b/x?a=1&X-Goog-Signature={}&b=2",
        "abfs://box@account.dfs.core.windows.net/x?sig={}",
    ]
)


@given(st.text(max_size=60), WITH_SECRET, SECRET, st.text(max_size=60))
def test_a_secret_in_a_url_is_never_shown(
    before: str, template: str, secret: str, after: str
) -> None:
    assert secret not in redact(f"{before}{template.format(secret)} {after}")


@given(st.text(max_size=100) | st.text("?&=:@/.;'\"*astoken{}() ", max_size=60))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(WITH_SECRET, SECRET, SECRET)
def test_two_secrets_for_one_file_look_the_same(template: str, first: str, second: str) -> None:
    assert redact(template.format(first)) == redact(template.format(second))
