"""What an operator does by hand while nodes fail: asks any node that answers, and asks again.

Every wait has a deadline. What does not come about within it is a StuckError, which ends the run:
a cluster that cannot finish a change once it has its majority back is not alive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final, TypeVar

from chaos.faults.stage import Stage
from chaos.raftcluster import StuckError
from chaos.servers import CLOCK, pause

CLUSTER: Final = "/api/v1/admin/cluster"
SHARDS: Final = "/api/v1/admin/shards"
ASK_S: Final = 10.0
AGAIN_S: Final = 0.25
DONE_S: Final = 90.0
"""For any change: faults that go on meanwhile take the majority away now and then."""

T = TypeVar("T")
Node = Mapping[str, Any]


class Operator:
    def __init__(self, stage: Stage, dice: Random) -> None:
        self._stage, self._dice = stage, dice

    def ask(
        self, path: str, body: object = None, *, method: str = "POST"
    ) -> tuple[int, Any] | None:
        """(status, JSON) of the first node that answers, drawn anew each time."""
        names = self._stage.names
        for name in self._dice.sample(names, len(names)):
            server = self._stage.server(name)
            if server.running and not server.frozen:
                answer = server.ask(path, body, method=method, timeout_s=ASK_S)
                if answer is not None:
                    return answer
        return None

    def until(self, probe: Callable[[], T | None], what: str, *, hurried: bool = False) -> T | None:
        """What it gives once that is true. `hurried`: None when the time of faults is over."""
        end = CLOCK.monotonic() + DONE_S
        while True:
            found = probe()
            if found:
                return found
            if hurried and self._stage.over.is_set():
                return None
            if CLOCK.monotonic() > end:
                raise StuckError(
                    f"within {DONE_S:g} s it did not come to this: {what}; nodes: "
                    f"{self.ask(f'{CLUSTER}/nodes')}; moves: {self.ask(f'{CLUSTER}/moves')}"
                )
            pause(AGAIN_S)

    def node(self, name: str) -> Node | None:
        """As the map has it. None: it is no member, or nobody answers; see `nodes`."""
        found = [each for each in self.nodes() if each["name"] == name]
        return found[-1] if found else None

    def nodes(self) -> list[Node]:
        """Of those that are not removed. Empty if nobody answers."""
        answer = self.ask(f"{CLUSTER}/nodes")
        if answer is None or answer[0] != 200:
            return []
        return [each for each in answer[1]["nodes"] if each["state"] != "removed"]

    def shards(self) -> list[Mapping[str, Any]]:
        answer = self.ask(SHARDS)
        return [] if answer is None or answer[0] != 200 else list(answer[1]["shards"])

    # --- changes ----------------------------------------------------------------------------

    def drain(self, name: str) -> int:
        """The status of the answer; 0 if there was none."""
        answer = self.ask(f"{CLUSTER}/drain", {"node_address": name})
        return 0 if answer is None else answer[0]

    def undrain(self, name: str) -> bool:
        answer = self.ask(f"{CLUSTER}/undrain", {"node_address": name})
        return answer is not None and answer[0] == 200

    def remove(self, node: str, *, dead: bool = False) -> bool:
        """True once it is no member. A call that was lost may have removed it."""
        body = {"node_address": node, "dead": dead}
        answer = self.ask(f"{CLUSTER}/nodes", body, method="DELETE")
        if answer is None:
            return False
        return answer[0] == 404 or (answer[0] == 200 and answer[1]["state"] == "removed")
