"""The kinds of values that name other nodes: founding members, and where to dial whom. Pure.

In the environment a member is `n1=10.0.0.1:7401` or just the address, an override is
`n2=127.0.0.1:9001`; several are separated by commas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from kv.config.values import Address, AddressKind, BadValue, Text, shown, toml_string

_ADDRESS: Final = AddressKind()
_NAME: Final = Text('a short name, as "node-1"', max_length=256, optional=False)


class InitialMember(NamedTuple):
    """One of the nodes that form a cluster."""

    name: str
    """Empty if only the address was given."""
    peer: Address


@dataclass(frozen=True, slots=True)
class MemberKind:
    says: str = '"HOST:PORT", "NAME=HOST:PORT" or {name = "NAME", peer = "HOST:PORT"}'

    def read(self, value: object) -> InitialMember:
        if isinstance(value, str):
            return self.read_text(value)
        if not isinstance(value, dict) or set(value) - {"name", "peer"} or "peer" not in value:
            raise BadValue(f"is {shown(value)}; write {self.says}")
        try:
            name = _NAME.read(value["name"]) if "name" in value else ""
        except BadValue as error:
            raise BadValue(f"has a name that {error}") from None
        return InitialMember(name, _address(value["peer"], "has a peer that"))

    def read_text(self, text: str) -> InitialMember:
        name, equals, address = text.rpartition("=")
        if equals and not name.strip():
            raise BadValue(f"is {shown(text)}; write {self.says}")
        return InitialMember(_NAME.read(name.strip()) if equals else "", _address(address, ""))

    def render(self, value: InitialMember) -> str:
        peer = toml_string(str(value.peer))
        return f"{{name = {toml_string(value.name)}, peer = {peer}}}" if value.name else peer


@dataclass(frozen=True, slots=True)
class AddressTable:
    says: str = 'a table, as {"n2" = "127.0.0.1:9001"}'

    def read(self, value: object) -> dict[str, Address]:
        if not isinstance(value, Mapping):
            raise BadValue(f"is {shown(value)}; write {self.says}")
        found: dict[str, Address] = {}
        for peer, address in value.items():
            try:
                name = _NAME.read(peer)
            except BadValue as error:
                raise BadValue(f"has a peer whose name {error}") from None
            found[name] = _address(address, f"has for {shown(name)} what")
        return found

    def read_text(self, text: str) -> dict[str, Address]:
        found: dict[str, object] = {}
        for part in (part.strip() for part in text.split(",")):
            peer, equals, address = part.rpartition("=")
            if part and not equals:
                raise BadValue(f"has {shown(part)}; write NAME=HOST:PORT, separated by commas")
            if peer.strip() in found:
                raise BadValue(f"names {shown(peer.strip())} twice; remove one")
            if part:
                found[peer.strip()] = address
        return self.read(found)

    def render(self, value: Mapping[str, Address]) -> str:
        inside = ", ".join(
            f"{toml_string(peer)} = {toml_string(str(address))}" for peer, address in value.items()
        )
        return f"{{{inside}}}"


def _address(value: object, about: str) -> Address:
    try:
        address = _ADDRESS.read(value)
    except BadValue as error:
        raise BadValue(f"{about} {error}" if about else str(error)) from None
    assert address is not None
    return address
