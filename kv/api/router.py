"""From method and raw path to a route, or to an error that helps. Pure.

1. A path without a parameter is looked up as it stands.
2. Otherwise the longest known prefix decides; what follows is the parameter, percent-decoded.
3. A parameter that is a key or a name may hold slashes. A suffix (`/cas`) counts only for the
   methods that have one, so GET .../a/cas reads the key `a/cas`; POST to such a key percent-
   encodes its slash.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from kv.api.failures import MethodNotAllowedError, NoSuchRouteError
from kv.api.route import Route
from kv.api.target import decode_path

GREEDY: Final = frozenset({"key", "name"})
NEAR_MAX: Final = 3
_HINT_MAX_CHARACTERS: Final = 120

Methods = dict[str, Route]


class _Open:
    """The routes of one prefix, by suffix ("" is the bare parameter)."""

    def __init__(self, param: str) -> None:
        self.greedy = param in GREEDY
        self.by_suffix: dict[bytes, Methods] = {}

    def find(self, method: str, rest: bytes) -> tuple[Methods, bytes]:
        """The methods there are, and the parameter. Empty methods: no such path."""
        elsewhere: Methods = {}
        for suffix, methods in self.by_suffix.items():
            if not suffix or not rest.endswith(suffix):
                continue
            if method in methods:
                return methods, rest[: -len(suffix)]
            if not self.greedy:
                elsewhere = methods
        if not self.greedy and b"/" in rest:
            return elsewhere, b""
        return self.by_suffix.get(b"", {}), rest


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: Final = tuple(routes)
        self._static: dict[bytes, Methods] = {}
        self._open: dict[bytes, _Open] = {}
        for route in self.routes:
            self._add(route)
        self._prefixes: Final = sorted(self._open, key=len, reverse=True)

    def _add(self, route: Route) -> None:
        if route.param is None:
            methods = self._static.setdefault(route.template.encode(), {})
        else:
            prefix = route.prefix.encode()
            group = self._open.setdefault(prefix, _Open(route.param))
            methods = group.by_suffix.setdefault(route.suffix.encode(), {})
        assert route.method not in methods, f"{route.method} {route.template} is there twice"
        methods[route.method] = route

    def find(self, method: str, path: bytes) -> tuple[Route, bytes]:
        """The route and its parameter's bytes. Raises NoSuchRouteError, MethodNotAllowedError,
        InvalidPathError."""
        methods, raw = self._locate(method, path)
        if not methods:
            raise self._nothing_there(path)
        route = methods.get(method)
        if route is None:
            raise self._wrong_method(method, methods)
        return route, decode_path(raw)

    def methods_of(self, path: bytes) -> tuple[str, ...]:
        """What may be done there, for OPTIONS; empty if nothing is there."""
        methods, _ = self._locate("", path)
        found = dict.fromkeys(methods)
        if methods:
            for route in self.routes:
                if route.suffix and path.startswith(route.prefix.encode()):
                    found[route.method] = None
        return tuple(found)

    def _locate(self, method: str, path: bytes) -> tuple[Methods, bytes]:
        static = self._static.get(path)
        if static is not None:
            return static, b""
        for prefix in self._prefixes:
            if path.startswith(prefix):
                return self._open[prefix].find(method, path[len(prefix) :])
        return {}, b""

    def _wrong_method(self, method: str, methods: Methods) -> MethodNotAllowedError:
        allowed = tuple(sorted(methods))
        template = next(iter(methods.values())).template
        suffixes = [
            f"POST {route.template}"
            for route in self.routes
            if route.suffix and route.method == method and route.template.startswith(template)
        ]
        also = f"; there are {', '.join(suffixes)}" if suffixes else ""
        return MethodNotAllowedError(
            f"{method[:20]} is not served at {template}; {' and '.join(allowed)} are{also}", allowed
        )

    def _nothing_there(self, path: bytes) -> NoSuchRouteError:
        shown = path[:_HINT_MAX_CHARACTERS].decode("latin-1")
        near = tuple(
            get_close_matches(shown, {route.template for route in self.routes}, NEAR_MAX, 0.6)
        )
        hint = f"; near it are {', '.join(near)}" if near else ""
        return NoSuchRouteError(
            f"nothing is served at {shown!a}{hint}; GET /openapi.json lists everything", near
        )
