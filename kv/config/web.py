"""The kinds of values that name web pages and hosts, normalised as browsers send them. Pure.

An Origin header is a scheme, a host in lower case and a port that is left out where it is the
scheme's own; a Host header is compared without its port.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kv.config.values import BadValue, shown, toml_string

DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_ORIGIN: Final = re.compile(
    r"(https?)://([a-z0-9](?:[a-z0-9.-]{0,252})|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?/?"
)
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252})|\[?[0-9a-f:.]{2,45}\]?")


@dataclass(frozen=True, slots=True)
class Origin:
    says: str = '"https://HOST" or "http://HOST:PORT", without a path'

    def read(self, value: object) -> str:
        found = _ORIGIN.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            hint = '; for every origin set http.cors = "any"' if value == "*" else ""
            raise BadValue(f"is {shown(value)}; write {self.says}{hint}")
        scheme, host, port = found[1], found[2], found[3] or ""
        return f"{scheme}://{host}" + ("" if port == DEFAULT_PORTS[scheme] else port)

    def read_text(self, text: str) -> str:
        return self.read(text)

    def render(self, value: str) -> str:
        return toml_string(value)


@dataclass(frozen=True, slots=True)
class HostName:
    says: str = 'a host name without a port, as "kv.example.org"'

    def read(self, value: object) -> str:
        found = _HOST.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise BadValue(f"is {shown(value)}; write {self.says}")
        return found[0].strip("[]").rstrip(".")

    def read_text(self, text: str) -> str:
        return self.read(text)

    def render(self, value: str) -> str:
        return toml_string(value)
