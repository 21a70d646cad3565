"""Access control of the review server: a middleware in front of every route.

- Host header: names of this machine only, against DNS rebinding.
- Not bound to the loopback: a random token, once in the URL, then as a cookie.
- Requests that change something: our own header, which a foreign page cannot send without a CORS
  preflight, and no foreign `Origin`.
- Every answer: only the page's own scripts, styles and pictures are allowed, and no MIME sniffing.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_HEADER = "x-ovseg"
TOKEN_PARAMETER = "token"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def new_token() -> str:
    """Return 256 random bits for a URL."""
    return secrets.token_urlsafe(32)


class Guard:
    """Passes on the requests that are meant for this server, and refuses the others.

    Args:
        app: the guarded application.
        hosts: host names that the server answers to, without ports.
        any_address: also answer to any plain IP address, which no DNS entry can forge.
        token: that requests must have; None: only this machine can reach the server.
    """

    def __init__(
        self, app: ASGIApp, hosts: Iterable[str], any_address: bool, token: str | None
    ) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in (*hosts, *_LOOPBACK))
        self._any_address = any_address
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        answer = self._app if refusal is None else refusal

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await answer(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_known_host(host):
            return PlainTextResponse(
                "This name is not one of the server's: open the address that it printed.", 421
            )
        if scope["method"] not in ("GET", "HEAD") and not _is_own_page(headers, host):
            return PlainTextResponse("Only the server's own pages may do this.", 403)
        return None if self._token is None else self._check_token(scope, headers, host)

    def _is_known_host(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self._hosts or (self._any_address and _is_address(name))

    def _check_token(self, scope: Scope, headers: Headers, host: str) -> Response | None:
        assert self._token is not None
        cookie = f"ovseg-{_port(host)}"
        if _same(cookie_parser(headers.get("cookie", "")).get(cookie, ""), self._token):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["method"] != "GET" or not _same(query.pop(TOKEN_PARAMETER, [""])[0], self._token):
            return PlainTextResponse(
                "Open the whole address that ovseg printed, with its token.", 403
            )
        # The token leaves the address bar and the history, for a cookie that scripts cannot read.
        rest = urlencode(query, doseq=True)
        page = "/try" if scope["path"] == "/try" else "/"
        answer = RedirectResponse(f"{page}{'?' if rest else ''}{rest}", 303)
        answer.set_cookie(cookie, self._token, httponly=True, samesite="lax")
        return answer


def _is_own_page(headers: Headers, host: str) -> bool:
    origin = headers.get("origin")
    return (
        headers.get(OWN_HEADER) == "1"
        # https: a proxy in front of this server may have it.
        and (
            origin is None
            or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
        )
        and headers.get("sec-fetch-site", "same-origin") == "same-origin"
    )


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _port(host: str) -> int:
    try:
        return urlsplit(f"//{host}").port or 80
    except ValueError:
        return 80
