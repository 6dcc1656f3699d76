"""The other nodes, as this one knows them: their cards, and where to dial them.

    initial --find_founders--> ids --.
    the map (a join) ----------------+--> cards (kept in a file) --> the link dials all of them
    their own word, when they meet --'        '--> names, addresses and alarms, for whoever asks

Before `open` nobody is known, not even this node itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kv.cluster.cards import Address, Card, Cards
from kv.cluster.forming import find_founders
from kv.cluster.link import PeerLink
from kv.cluster.mail import Mail
from raftgroups.meta.records import NodeRecord
from raftgroups.transport import NodeId


class Neighbours:
    """For the node's loop only."""

    def __init__(
        self,
        node_id: NodeId,
        directory: Path,
        link: PeerLink,
        mail: Mail,
        *,
        initial: Sequence[Address],
        names: Mapping[Address, str],
        routes: Mapping[str, Address],
        full: Callable[[list[str]], None],
    ) -> None:
        """`names`: what the configuration calls the nodes of `initial`. `routes`: by advertised
        "host:port", name or node id, where to dial instead. `full` is told the names of those
        whose disk is full."""
        self._node_id = node_id
        self._directory = directory
        self._link = link
        self._mail = mail
        self._initial = initial
        self._names = names
        self._routes = routes
        self._full = full
        self._cards: Cards | None = None

    def open(self, own: Card) -> None:
        """Read who was known, and be one of them."""
        self._cards = Cards(own, self._directory, self._link, self._mail, changed=self._changed)
        self._cards.save_own()

    @property
    def all(self) -> Mapping[NodeId, Card]:
        """This node too."""
        return {} if self._cards is None else self._cards.all

    @property
    def others(self) -> Mapping[NodeId, Card]:
        return {} if self._cards is None else self._cards.others

    @property
    def alarms(self) -> list[tuple[NodeId, str]]:
        """Of all nodes, as far as this one knows."""
        return [(node, alarm) for node, card in sorted(self.all.items()) for alarm in card.alarms]

    def show(self, *, alarms: tuple[str, ...]) -> None:
        """Of this node: everybody is told."""
        if self._cards is not None:
            self._cards.show(alarms=alarms)

    def learn(self, cards: Mapping[NodeId, Card]) -> None:
        """Of nodes that were not met yet; those that were know better."""
        assert self._cards is not None
        known = self._cards.all
        self._cards.learn({node: card for node, card in cards.items() if node not in known})
        self.dial()

    async def find_founders(self) -> list[NodeId]:
        """Of `initial`, all of them; this node alone if it has no peers."""
        assert self._cards is not None
        if not self._initial:
            return [self._node_id]
        founders = await find_founders(self._link, self._node_id, self._initial, route=self.route)
        self._cards.learn(
            {
                node: self._cards.all.get(node)
                or Card(node, f"{address[0]}:{address[1]}", address, "")
                for node, address in founders.items()
            }
        )
        self.dial()
        return sorted(founders)

    def record_of(self, node: NodeId, incarnation: int = 0) -> NodeRecord | None:
        """For the meta group; None until the node's card says enough."""
        card = self.all.get(node)
        if card is None or not (incarnation or card.incarnation):
            return None
        return NodeRecord(
            node,
            incarnation or card.incarnation,
            card.name,
            card.peer,
            card.client,
            card.rack,
            card.datacentre,
            card.weight,
        )

    def route(self, address: Address, card: Card | None = None) -> Address:
        """Where to dial the node that advertises this address."""
        labels = [f"{address[0]}:{address[1]}", self._names.get(address, "")]
        labels += [] if card is None else [card.name, card.node]
        return next((self._routes[label] for label in labels if label in self._routes), address)

    def dial(self) -> None:
        for node, card in self.others.items():
            self._link.set_peer(node, self.route(card.peer, card))

    def _changed(self, card: Card) -> None:
        """A peer told us its name, its addresses, its alarms."""
        self._full([other.name for other in self.others.values() if "NOSPACE" in other.alarms])
        self._link.set_peer(NodeId(card.node), self.route(card.peer, card))
