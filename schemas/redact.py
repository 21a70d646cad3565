"""Secrets taken out of everything that is printed, logged or written. Their patterns are here only.

In URLs, hidden are

- `user:password@` of every scheme;
- a bare `TOKEN@` of http(s). Other schemes have ordinary text there, such as the container in
  `abfs://container@account.dfs.core.windows.net/path`;
- every query of http(s), since any parameter may sign the URL; of other schemes a query in which
  one parameter is called like a secret, because `?` may also be part of a file's name there.

In other text, hidden are the values of names such as `aws_secret_access_key` and the word after
`Bearer` or `Basic`. All else stays as it is, so that a printed command can be typed again.
Where a text is ambiguous, too much is hidden rather than too little.
"""

import re

HIDDEN = "***"
"""What stands in the place of a secret."""

# Not in the middle of a word: a scheme sought from every letter takes quadratic time.
_SCHEME = r"(?<![A-Za-z])[A-Za-z][A-Za-z0-9+.-]*://"
# A password may hold `@`, `?` and `#`, which do not belong there. AWS makes keys that hold `/`.
_USER_AND_PASSWORD = re.compile(
    rf"({_SCHEME})(?:A[KS]IA[A-Z0-9]{{8,}}:[^@\s]*|[^/@\s]*:[^/\s]*)@", re.ASCII
)
_BARE_TOKEN = re.compile(r"(?i)(https?://)[^/?#\s'\"]*@")
_QUERY = re.compile(rf"({_SCHEME}[^\s?'\"]*\?)([^\s'\"]*[^\s'\",;:.)}}\]])")

_SECRET_NAME = (
    r"[\w.-]*(?:secret|password|passwd|token|access_?key|account_?key|api_?key|credential"
    r"|signature|x-(?:amz|goog)-[a-z-]+)"
)
_SECRET_PARAMETER = re.compile(rf"(?i)(?:^|[?&;])(?:{_SECRET_NAME}|pwd|key|sig|auth)=")
# Not after a slash: that is a folder, such as `/data/token=2/`.
_NAMED_VALUE = re.compile(
    rf"(?i)(?<![\w./-])({_SECRET_NAME}['\"]?\s*[=:]\s*['\"]?)[^\s&'\",;}}]*[^\s&'\",;}}:.]"
)
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")


def redact(text: str) -> str:
    """Return the text with `***` in place of passwords, tokens, keys and signatures."""
    text = _USER_AND_PASSWORD.sub(rf"\1{HIDDEN}@", text)
    text = _BARE_TOKEN.sub(rf"\1{HIDDEN}@", text)
    text = _QUERY.sub(_without_secret_query, text)
    text = _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)
    return _NAMED_VALUE.sub(rf"\1{HIDDEN}", text)


def has_password(url: str) -> bool:
    """Return whether a URL begins with `scheme://user:password@`."""
    return _USER_AND_PASSWORD.match(url) is not None


def _without_secret_query(match: re.Match[str]) -> str:
    is_http = match[1].lower().partition("://")[0].endswith(("http", "https"))
    if is_http or _SECRET_PARAMETER.search(match[2]):
        return match[1] + HIDDEN
    return match[0]
