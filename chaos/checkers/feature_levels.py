"""Feature levels: no program executes a command, or has a replica, that is newer than it; what a
replica says of its group's level never falls while its process lives. One that was removed, erased
and has joined again is another replica: it knows nothing of its group yet. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from chaos.checkers.violation import Violation


def check_command(
    group: int, node: str, index: int, command_level: int, program_level: int
) -> list[Violation]:
    """One application as it happens."""
    if command_level <= program_level:
        return []
    return [
        Violation(
            "feature_levels",
            f"group {group}: {node} supports level {program_level} and applied at index {index} a "
            f"command of level {command_level}",
        )
    ]


class FeatureLevels:
    """Fed now and then with what replicas say of their group; remembers it by process."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], int] = {}

    def begins_anew(self, group: int, process: str) -> None:
        """Its replica is one that has joined and has no state yet."""
        self._seen.pop((process, group), None)

    def raised(self) -> int:
        """How many groups were seen above the first level."""
        return len({group for (_, group), level in self._seen.items() if level > 1})

    def observe(
        self, group: int, process: str, level: int, members: Mapping[str, int]
    ) -> list[Violation]:
        """`members`: what the program of each member of the group supports."""
        before = self._seen.get((process, group), level)
        self._seen[process, group] = level
        found = []
        if level < before:
            message = f"group {group}: its level fell from {before} to {level} in {process}"
            found.append(Violation("feature_levels", message))
        older = sorted(node for node, supported in members.items() if supported < level)
        if older:
            message = (
                f"group {group}: {process} has it at level {level}, above the programs of "
                f"{', '.join(older)}"
            )
            found.append(Violation("feature_levels", message))
        return found
