"""What the nodes of a cluster tell each other about themselves: names, addresses, alarms.

Groups know node ids; people and clients know names and URLs. Each node sends its card to every peer
when they meet and when it changes, and keeps the cards of the others, on the disk too, so that
after a restart it knows where to dial. Nothing that must be right rests on a card: ids and the
membership of groups come from the log, who a peer is from the handshake.

    nodes.json    a stamp (storage/stamps.py): format 1, nodes: {id: {name, peer, client, version}}
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from kv.cluster.mail import Mail
from kv.cluster.said_once import SaidOnce
from raftgroups.transport import Link, NodeId
from storage import stamps
from storage.errors import DataDirectoryError

_log = logging.getLogger(__name__)

KIND: Final = "card"
FILE_NAME: Final = "nodes.json"
FORMAT: Final = 1
TEXT_MAX: Final = 1024
CARDS_MAX: Final = 4096

Address = tuple[str, int]


class Card(msgspec.Struct, frozen=True, tag="card", array_like=True):
    node: str
    name: str
    peer: Address
    client: str
    """The URL that clients use; empty while it is not known."""
    version: str = ""
    alarms: tuple[str, ...] = ()
    """For example "NOSPACE"."""
    incarnation: int = 0
    """Of its data directory; 0 from a node that does not say."""
    rack: str = ""
    datacentre: str = ""
    weight: float = 1.0


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Card).decode


class Cards:
    """Invariant: `own` is in `all`, and the file holds what `all` holds but the alarms."""

    def __init__(
        self,
        own: Card,
        directory: Path,
        link: Link,
        mail: Mail,
        *,
        changed: Callable[[Card], None] | None = None,
    ) -> None:
        self._path = directory / FILE_NAME
        self._mail = mail
        self._changed = changed
        self._said = SaidOnce(_log)
        self.own = own
        self.all: dict[NodeId, Card] = _read(self._path)
        self.all[NodeId(own.node)] = own
        mail.on(KIND, self._on_card)
        link.on_peer_change(self._on_peer_change)

    @property
    def others(self) -> Mapping[NodeId, Card]:
        return {node: card for node, card in self.all.items() if node != self.own.node}

    def learn(self, cards: Mapping[NodeId, Card]) -> None:
        """Keep these, with one write of the file."""
        fresh = {node: card for node, card in cards.items() if not _same(self.all.get(node), card)}
        self.all.update(cards)
        if fresh:
            self._save()

    def show(self, *, alarms: tuple[str, ...]) -> None:
        """The own card changed: tell everybody."""
        if alarms == self.own.alarms:
            return
        self.own = msgspec.structs.replace(self.own, alarms=alarms)
        self.all[NodeId(self.own.node)] = self.own
        for node in self.others:
            self._mail.tell(node, KIND, _encode(self.own))

    def save_own(self) -> None:
        self._save()

    def _save(self) -> None:
        members = {
            card.node: {
                "name": card.name,
                "peer": list(card.peer),
                "client": card.client,
                "version": card.version,
            }
            for card in self.all.values()
        }
        stamps.write_stamp(self._path, FORMAT, {"nodes": members})

    def _on_peer_change(self, peer: NodeId, connected: bool) -> None:
        if connected:
            self._mail.tell(peer, KIND, _encode(self.own))

    def _on_card(self, peer: NodeId, body: bytes) -> None:
        try:
            card = _decode(body)
        except msgspec.DecodeError as error:
            self._said.warn(f"peer {peer}", "malformed_card", f"its card cannot be read: {error}")
            return
        texts = (
            card.name,
            card.client,
            card.version,
            card.peer[0],
            card.rack,
            card.datacentre,
            *card.alarms,
        )
        if card.node != peer or max(map(len, texts)) > TEXT_MAX or len(card.alarms) > 16:
            self._said.warn(f"peer {peer}", "wrong_card", "sent a card that is not its own")
            return
        if len(self.all) >= CARDS_MAX and peer not in self.all:
            return
        before = self.all.get(peer)
        if before == card:
            return
        self.all[peer] = card
        if not _same(before, card):
            self._save()
        if self._changed is not None:
            self._changed(card)


def _same(before: Card | None, now: Card) -> bool:
    """Whether the file would not change."""
    return before is not None and (
        (before.node, before.name, before.peer, before.client, before.version)
        == (now.node, now.name, now.peer, now.client, now.version)
    )


def _read(path: Path) -> dict[NodeId, Card]:
    if not path.exists():
        return {}
    try:
        nodes = stamps.read_stamp(path, FORMAT)["nodes"]
        return {
            NodeId(node): Card(
                node,
                each["name"],
                (each["peer"][0], each["peer"][1]),
                each["client"],
                each["version"],
            )
            for node, each in nodes.items()
        }
    except (stamps.StampError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataDirectoryError(
            f"the list of nodes in {path} cannot be read ({error}); remove it, and name the other "
            "nodes in [cluster] initial so that they are found again"
        ) from error
