"""The fault menu, and a schedule drawn from it.

A fault is a function that does something bad to the cluster now and undoes it after a while. The
schedule draws the next one by weight and waits; faults overlap. When the calm comes, everything is
undone at once and nothing bad begins again: only then may liveness be asked for. A rolling upgrade
is not undone but finished.

Names are what `--faults` takes; "all" is the whole menu.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from chaos.sim.workload import pick
from raftgroups.status import Role

if TYPE_CHECKING:
    from chaos.sim.cluster import Cluster
    from chaos.sim.node import SimNode


class FaultInjector:
    """Invariant: after `calm`, every node runs and nothing of the menu is in force."""

    def __init__(
        self, cluster: Cluster, weights: dict[str, float], every_s: float, length: float
    ) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.network = cluster.network
        self.rng = cluster.world.rng("faults")
        self.weights = weights
        self.every_s = every_s
        self.length = length
        self.calmed = False
        self.menu = MENU
        self.injected: dict[str, int] = {}

    def start(self) -> None:
        if self.weights:
            self._schedule()

    def _schedule(self) -> None:
        self.world.after(self.rng.expovariate(1.0 / self.every_s), self._strike)

    def _strike(self) -> None:
        if self.calmed:
            return
        name = pick(self.rng, self.weights)
        self.injected[name] = self.injected.get(name, 0) + 1
        self.menu[name](self)
        self._schedule()

    def calm(self) -> None:
        """Undo everything: whole network, quick disks, true clocks, every node up."""
        self.calmed = True
        self.world.trace("calm: all faults end")
        self.network.heal()
        self.network.settings.duplicate_p = self.network.settings.spike_p = 0.0
        if "upgrade" in self.weights:
            self._finish_upgrade()
        for node in self.cluster.nodes:
            node.recover()

    def _finish_upgrade(self) -> None:
        """Whoever still runs the older program is restarted with the newer one, so that every group
        must reach its level."""
        for node in self.cluster.nodes:
            node.upgrade()
            if node.level < node.installed_level:
                node.crash(power=False)

    # --- helpers of the menu ------------------------------------------------------------------

    def later(self, low_s: float, high_s: float, undo: Callable[[], None]) -> None:
        """Undo after a while, unless the calm has done so already."""

        def act() -> None:
            if not self.calmed:
                undo()

        self.world.after(self.rng.uniform(low_s, high_s) * self.length, act)

    def node(self) -> SimNode:
        """A victim; leaders more often than their number."""
        nodes = self.cluster.nodes
        if self.rng.random() < 0.4:
            leading = [
                node
                for node in nodes
                if any(group.role is Role.LEADER for _, group in node.groups())
            ]
            if leading:
                return self.rng.choice(leading)
        return self.rng.choice(nodes)

    def pair(self) -> tuple[SimNode, SimNode]:
        first = self.node()
        second = self.rng.choice([node for node in self.cluster.nodes if node is not first])
        return (first, second) if self.rng.random() < 0.5 else (second, first)

    def trace(self, line: str) -> None:
        self.world.trace(f"fault: {line}")

    def restart_later(self, node: SimNode, low_s: float, high_s: float) -> None:
        def start() -> None:
            if not node.running:
                node.start()

        self.later(low_s, high_s, start)


# --- the network -------------------------------------------------------------------------------


def latency(inject: FaultInjector) -> None:
    source, target = inject.pair()
    direction = inject.network.direction(source.node_id, target.node_id)
    direction.extra_s = inject.rng.choice((0.02, 0.1, 0.4))
    inject.trace(f"latency {source.label}>{target.label} +{direction.extra_s} s")

    def undo() -> None:
        direction.extra_s = 0.0

    inject.later(0.2, 4.0, undo)


def reorder(inject: FaultInjector) -> None:
    """Single frames are late, so that links and channels overtake each other."""
    settings = inject.network.settings
    settings.spike_p = inject.rng.choice((0.02, 0.1, 0.3))
    settings.spike_s = inject.rng.choice((0.02, 0.3, 1.0))
    inject.trace(f"reorder p={settings.spike_p} up to {settings.spike_s} s")

    def undo() -> None:
        settings.spike_p = 0.0

    inject.later(0.2, 5.0, undo)


def stall(inject: FaultInjector) -> None:
    source, target = inject.pair()
    seconds = inject.rng.uniform(0.05, 3.0) * inject.length
    inject.trace(f"stall {source.label}>{target.label} {seconds:.2f} s")
    inject.network.stall(source.node_id, target.node_id, seconds)


def reset(inject: FaultInjector) -> None:
    source, target = inject.pair()
    inject.trace(f"reset {source.label}={target.label}")
    inject.network.reset(source.node_id, target.node_id)


def oneway(inject: FaultInjector) -> None:
    """One direction of one link, or everything that one node sends, or hears."""
    source, target = inject.pair()
    pairs = [(source, target)]
    others = [node for node in inject.cluster.nodes if node is not source]
    shape = inject.rng.choice(("link", "mute", "deaf"))
    if shape == "mute":
        pairs = [(source, other) for other in others]
    elif shape == "deaf":
        pairs = [(other, source) for other in others]
    inject.trace(f"oneway {shape} {source.label}>{target.label}")
    _block(inject, pairs)


def partition(inject: FaultInjector) -> None:
    """Two sides that do not hear each other; or a bridge: one node still hears both."""
    nodes = list(inject.cluster.nodes)
    inject.rng.shuffle(nodes)
    cut = inject.rng.randrange(1, len(nodes))
    left, right = nodes[:cut], nodes[cut:]
    if len(right) > 2 and inject.rng.random() < 0.3:
        right = right[1:]
    inject.trace(
        "partition "
        + ",".join(node.label for node in left)
        + " | "
        + ",".join(node.label for node in right)
    )
    _block(inject, [(a, b) for a in left for b in right] + [(b, a) for a in left for b in right])


def _block(inject: FaultInjector, pairs: list[tuple[SimNode, SimNode]]) -> None:
    for source, target in pairs:
        inject.network.block(source.node_id, target.node_id)

    def undo() -> None:
        for source, target in pairs:
            inject.network.unblock(source.node_id, target.node_id)

    inject.later(0.1, 6.0, undo)


def duplicate(inject: FaultInjector) -> None:
    settings = inject.network.settings
    settings.duplicate_p = inject.rng.choice((0.05, 0.3))
    inject.trace(f"duplicate p={settings.duplicate_p}")

    def undo() -> None:
        settings.duplicate_p = 0.0

    inject.later(0.2, 5.0, undo)


# --- processes and machines --------------------------------------------------------------------


def crash(inject: FaultInjector) -> None:
    node = inject.node()
    if node.running:
        node.crash(power=False)
        inject.restart_later(node, 0.01, 4.0)


def stop(inject: FaultInjector) -> None:
    """An orderly stop and start, as in a rolling restart."""
    node = inject.node()
    if node.running:
        node.stop()
        inject.restart_later(node, 0.1, 2.0)


def powercut(inject: FaultInjector) -> None:
    node = inject.node()
    if node.running:
        node.crash(power=True)
        inject.restart_later(node, 0.1, 4.0)


def restartall(inject: FaultInjector) -> None:
    """Every node at once."""
    power = inject.rng.random() < 0.5
    inject.trace("restartall")
    for node in inject.cluster.nodes:
        if node.running:
            node.crash(power=power)
            inject.restart_later(node, 0.05, 1.5)


def freeze(inject: FaultInjector) -> None:
    node = inject.node()
    seconds = inject.rng.choice((0.05, 0.3, 1.0, 4.0)) * inject.rng.uniform(0.5, 1.5)
    node.freeze(seconds * inject.length)


def clockjump(inject: FaultInjector) -> None:
    node, rng = inject.node(), inject.rng
    how = rng.choice(("wall", "forward", "drift"))
    inject.trace(f"clock of {node.label}: {how}")
    if how == "wall":
        node.clock.jump_wall(rng.uniform(-3_600.0, 3_600.0))
    elif how == "forward":
        node.clock.jump(rng.choice((0.3, 2.0, 60.0)))
    else:
        node.clock.drift(rng.choice((0.7, 0.95, 1.05, 1.5)))
        inject.later(0.5, 6.0, lambda: node.clock.drift(1.0))


def upgrade(inject: FaultInjector) -> None:
    """Some steps of a rolling upgrade: one node after the other stops in good order and comes back
    with the newer program."""
    nodes = list(inject.cluster.nodes)
    inject.rng.shuffle(nodes)

    def step(node: SimNode) -> None:
        if node.upgrade() and node.running:
            node.stop()
            inject.restart_later(node, 0.2, 1.0)

    for number, node in enumerate(nodes[: inject.rng.randint(1, len(nodes))]):
        inject.later(number * 1.0, number * 1.0 + 0.5, partial(step, node))


# --- disks -------------------------------------------------------------------------------------


def slowsync(inject: FaultInjector) -> None:
    node = inject.node()
    node.disk.slow_factor = inject.rng.choice((5.0, 30.0, 200.0))
    inject.trace(f"slow disk of {node.label} x{node.disk.slow_factor:g}")

    def undo() -> None:
        node.disk.slow_factor = 1.0

    inject.later(0.2, 4.0, undo)


def diskstall(inject: FaultInjector) -> None:
    """The next sync hangs: short of an election timeout, or well over it."""
    node = inject.node()
    seconds = inject.rng.choice((0.3, 1.0, 4.0)) * inject.length
    inject.trace(f"disk of {node.label} stalls {seconds:g} s")
    node.disk.stalled_until = inject.world.now + seconds


def diskerror(inject: FaultInjector) -> None:
    """The next write fails, the process ends, and somebody starts it again."""
    node = inject.node()
    if node.running:
        inject.trace(f"disk of {node.label} fails the next write")
        node.disk.fail_next = True


# --- operators ---------------------------------------------------------------------------------


def snapshot(inject: FaultInjector) -> None:
    """Compact a log almost wholly, so that whoever lags needs a snapshot."""
    node = inject.node()
    keep = inject.rng.choice((0, 1, 10))
    for group_id, group in node.groups():
        inject.trace(f"{node.label} g{group_id} compacts, keeps {keep}")
        group.compact(keep)


def transfer(inject: FaultInjector) -> None:
    inject.cluster.admin.transfer(inject.rng)


def membership(inject: FaultInjector) -> None:
    """A few changes, one after the other."""
    for number in range(inject.rng.randrange(1, 8)):
        step = inject.rng.uniform(0.0, 0.5) + number * 0.5
        inject.later(step, step, lambda: inject.cluster.admin.change(inject.rng))


def newdisk(inject: FaultInjector) -> None:
    """A node loses its disk and must be removed and added again."""
    inject.cluster.admin.replace_disk(inject.rng)
    for number in range(12):
        inject.later(number * 0.3, number * 0.3, inject.cluster.admin.repair)


MENU: Final[dict[str, Callable[[FaultInjector], None]]] = {
    "latency": latency,
    "reorder": reorder,
    "stall": stall,
    "reset": reset,
    "oneway": oneway,
    "partition": partition,
    "duplicate": duplicate,
    "crash": crash,
    "stop": stop,
    "powercut": powercut,
    "restartall": restartall,
    "freeze": freeze,
    "upgrade": upgrade,
    "clockjump": clockjump,
    "slowsync": slowsync,
    "diskstall": diskstall,
    "diskerror": diskerror,
    "snapshot": snapshot,
    "transfer": transfer,
    "membership": membership,
    "newdisk": newdisk,
}
