"""Secrets taken out of everything that is printed, logged or written. Their patterns are here only.

In URLs, hidden are

- `user:password@` of every scheme;
- a bare `TOKEN@` of http(s). Other schemes have ordinary text there, such as the container in
  `abfs://container@account.dfs.core.windows.net/path`;
- every query of http(s), since any parameter may sign the URL; of other schemes a query in which
  one parameter is called like a secret, because `?` may also be part of a file's name there.

In other text, hidden are the values of names such as `aws_secret_access_key`, the word after
`Bearer` or `Basic`, and tokens of a known form such as `hf_...`. All else stays as it
is, so that a printed command can be typed again.
Where a text is ambiguous, too much is hidden rather than too little.
"""

import re
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
"""What stands in the place of a secret."""

# Whoever names a file decides on what is searched here, so that no pattern may take more than
# linear time: nothing is sought from every letter to the end, no part can be cut in two ways.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_AFTER_SCHEME = r"(?<=[A-Za-z0-9+.-]://)"
# A password may hold `@`, `?` and `#`, which do not belong there. AWS makes keys that hold `/`.
_AWS_KEYS = r"A[KS]IA[A-Z0-9]{8,124}:[^@\s]{0,500}@"
_USER_AND_PASSWORD = re.compile(rf"{_AFTER_SCHEME}(?:{_AWS_KEYS}|[^/@\s:]*:[^/\s]*@)", re.ASCII)
_BARE_TOKEN = re.compile(r"(?i)(https?://)[^/?#\s'\"]*@")
_WORD = re.compile(r"[^\s'\"]+")
_AFTER_A_QUERY = ",;:.)}]"

_SECRET = (
    r"secret|password|passwd|passphrase|token|access_?key|account_?key|api_?key|private_?key"
    r"|credentials?|signature|connection_?string"
)
_SIGNED = r"x-(?:amz|goog)-"
_SECRET_NAME = rf"(?:(?=[\w.-]*{_SIGNED})[\w.-]+|[\w.-]*(?:{_SECRET}))"
_SECRET_PARAMETER = re.compile(
    rf"(?i)(?:{_SECRET}|^(?:pwd|pass|key|sig|auth|access|code))\Z|{_SIGNED}"
)
_SECRET_KEY = re.compile(rf"(?i)(?:{_SECRET_NAME}|pwd|auth)")
# Not after a slash: that is a folder, such as `/data/token=2/`. A value in quotes may hold spaces.
_NAMED_VALUE = re.compile(
    rf"(?i)(?<![\w./-])({_SECRET_NAME}['\"]?\s*[=:]\s*)"
    r"(?:\"[^\"\n]+\"|'[^'\n]+'|['\"]?[^\s&'\",;}]*[^\s&'\",;}:.])"
)
_SAS_SIGNATURE = re.compile(r"(?i)(?<![\w./-])(sig=)[\w%+/=-]{10,}")
_AUTHORIZATION = re.compile(
    r"(?i)\b(bearer|basic|authorization['\"]?\s*[:=]\s*['\"]?token)\s+[\w.~+/=-]{6,}"
)
# Of Hugging Face, GitHub, GitLab, Slack, OpenAI, AWS, Google; and JSON web tokens.
_KNOWN_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[a-z]-[\w-]{10,}|sk-(?:[a-z]+-)?[A-Za-z0-9]{20,}|A[KS]IA[A-Z0-9]{16}\b|AIza[\w-]{30,}"
    r"|ya29\.[\w-]{16,}|eyJ[\w-]{8,500}\.eyJ[\w-]{8,}(?:\.[\w-]*)?)"
)


def redact(text: str) -> str:
    """Return the text with `***` in place of passwords, tokens, keys and signatures."""
    return _hidden(text, any_query=True)


def redact_all(value: Any) -> Any:
    """Return a value of lists and mappings with secrets hidden in every text, also in keys.

    The text under a key that is called like a secret is hidden as a whole.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            redact(key) if isinstance(key, str) else key: HIDDEN
            if inner and isinstance(inner, str) and _SECRET_KEY.fullmatch(str(key))
            else redact_all(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_all(inner) for inner in value]
    return value


def places_of_secrets(value: Any, place: str = "") -> list[str]:
    """Return the dotted places in lists and mappings at which a text holds a secret for certain.

    A query of http(s) counts only if one of its parameters is called like a secret.
    """
    if isinstance(value, str):
        return [place] if holds_secret(value) else []
    if isinstance(value, dict):
        inner = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(str(index), item) for index, item in enumerate(value)]
    else:
        return []
    found = []
    for key, item in inner:
        here = f"{place}.{redact(key)}" if place else redact(key)
        is_named = item and isinstance(item, str) and _SECRET_KEY.fullmatch(key)
        found += [here] if is_named or holds_secret(key) else places_of_secrets(item, here)
    return found


def holds_secret(text: str) -> bool:
    """Return whether a text holds a secret for certain: not only an address with any query."""
    return _hidden(text, any_query=False) != text


def _hidden(text: str, any_query: bool) -> str:
    if "://" in text:
        text = _USER_AND_PASSWORD.sub(f"{HIDDEN}@", text)
        text = _BARE_TOKEN.sub(rf"\1{HIDDEN}@", text)
        if "?" in text:
            text = _WORD.sub(lambda word: _without_secret_query(word[0], any_query), text)
    text = _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)
    text = _NAMED_VALUE.sub(rf"\1{HIDDEN}", text)
    text = _SAS_SIGNATURE.sub(rf"\1{HIDDEN}", text)
    return _KNOWN_TOKEN.sub(HIDDEN, text)


def has_password(url: str) -> bool:
    """Return whether a URL begins with `scheme://user:password@`."""
    scheme = _SCHEME.match(url)
    return scheme is not None and _USER_AND_PASSWORD.match(url, scheme.end()) is not None


def _without_secret_query(word: str, any_query: bool) -> str:
    """Return a word, maybe a URL with punctuation around it, without a secret query."""
    scheme_end = word.find("://")
    query_start = word.find("?", scheme_end) + 1
    if scheme_end < 1 or not query_start:
        return word
    query = word[query_start:].rstrip(_AFTER_A_QUERY)
    is_http = word[:scheme_end].lower().endswith(("http", "https"))
    if query and ((is_http and any_query) or _has_secret(unquote(query))):
        return f"{word[:query_start]}{HIDDEN}{word[query_start + len(query) :]}"
    return word


def _has_secret(query: str) -> bool:
    parts = (part.partition("=") for part in re.split("[?&;]", query))
    return any(equals and _SECRET_PARAMETER.search(name) for name, equals, _ in parts)
