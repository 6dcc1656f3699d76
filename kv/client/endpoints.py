"""Which endpoint a call goes to: addresses, their health, and a breaker for each. Pure.

A client stays with the endpoint that answered last, because its connections are open. An endpoint
that cannot be reached is left alone for a while, twice as long after each failure in a row; then
one call may try it, and only its success closes the breaker. When all breakers are open, the one
that closes first is tried anyway: a client never refuses by itself to call.

    closed --failed--> open until now + 0.25 s, 0.5 s ... 8 s --time--> one try --worked--> closed
                        ^                                                  |
                        +---------------------- failed --------------------+
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from kv.client.failures import InvalidEndpointError

DEFAULT_ENDPOINT: Final = "http://127.0.0.1:7400"
DEFAULT_PORT: Final = 7400
OPEN_FIRST_S: Final = 0.25
OPEN_MAX_S: Final = 8.0
_SCHEME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def parse_endpoint(text: str) -> str:
    """`host:port`, `host` or a URL as a URL without a path. Raises InvalidEndpointError."""
    wanted = text.strip()
    url = wanted if _SCHEME.match(wanted) else f"http://{wanted}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if (
        not host
        or parts.scheme not in ("http", "https")
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or parts.username is not None
        or re.search(r"\s", host)
    ):
        raise InvalidEndpointError(
            f"{text!r} is no endpoint; give host:port or a URL like {DEFAULT_ENDPOINT}, without a "
            "path"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or DEFAULT_PORT}"


def parse_endpoints(given: str | Iterable[str]) -> tuple[str, ...]:
    """One, several with commas, or a sequence of them; each once. Raises InvalidEndpointError."""
    texts = given.split(",") if isinstance(given, str) else list(given)
    urls = dict.fromkeys(parse_endpoint(text) for text in texts if text.strip())
    if not urls:
        raise InvalidEndpointError(
            f"no endpoint was given; give one or more, like {DEFAULT_ENDPOINT}"
        )
    return tuple(urls)


class _Endpoint:
    __slots__ = ("failures", "retry_at", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures = 0
        self.retry_at = 0.0


class Endpoints:
    def __init__(self, urls: Sequence[str], first: int = 0) -> None:
        assert urls
        self._all = [_Endpoint(url) for url in urls]
        self._current = first % len(urls)

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(each.url for each in self._all)

    def choose(self, now: float, avoid: Collection[str] = ()) -> str:
        """Where to send. `avoid`: what this call has tried already; only if nothing else is up."""
        order = self._all[self._current :] + self._all[: self._current]
        fresh = [each for each in order if each.url not in avoid]
        for each in fresh + [each for each in order if each.url in avoid]:
            if not each.failures:
                return each.url
            if each.retry_at <= now:
                each.retry_at = now + _open_s(each.failures)  # one try at a time
                return each.url
        return min(fresh or order, key=lambda each: each.retry_at).url

    def worked(self, url: str) -> None:
        """It answered: stay with it."""
        for place, each in enumerate(self._all):
            if each.url == url:
                each.failures, each.retry_at = 0, 0.0
                self._current = place

    def failed(self, url: str, now: float) -> None:
        """It could not be reached, or did not answer in time."""
        for each in self._all:
            if each.url == url:
                each.failures += 1
                each.retry_at = now + _open_s(each.failures)
        self.leave(url)

    def leave(self, url: str) -> None:
        """It answers, but not what is needed: others first."""
        if self._all[self._current].url == url:
            self._current = (self._current + 1) % len(self._all)

    def is_open(self, url: str, now: float) -> bool:
        """Left alone for now."""
        return any(each.url == url and each.failures and each.retry_at > now for each in self._all)


def _open_s(failures: int) -> float:
    return float(min(OPEN_MAX_S, OPEN_FIRST_S * 2 ** (min(failures, 10) - 1)))
