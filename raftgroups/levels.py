"""Feature levels: how a cluster of mixed versions learns that all its programs know something new.

A program supports one level (HostConfig.feature_level) and all below it. Whatever a program of a
lower level could not execute, a command above all, is proposed only in a group that has reached the
level at which it came. Pure.

    every frame         tells the level of its sender's program
    the leader          once every member, learners too, was heard at a higher level than the
                        group's: proposes a configuration with that level, as one change of members
                        among others (raftgroups/changes.py)
    the configuration   carries the level through the log, restarts and snapshots; it never falls
    Group.feature_level the level that is applied here: whoever proposes a newer command asks it

So a replica meets a command of level N only after the entry that raised the group to N, and it has
that entry only if its program was heard at N. A program below its group's level stops at once, when
it opens the group or is sent such a configuration: it would have to pass over commands that the
others execute. That can only be a program that was put back to an older version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from raftgroups.errors import NewerLevelError
from raftgroups.transport import NodeId

FEATURE_LEVEL: Final = 5
"""What this version of the package supports."""

FIRST_LEVEL: Final = 1
"""Of every group, when it is formed."""

LINEAGE_LEVEL: Final = 2
"""From here on shards split and merge (lineage.py)."""

TXN_LEVEL: Final = 3
"""From here on transactions may touch several shards (twophase.py)."""

RING_LEVEL: Final = 3
"""From here on the meta group makes keyspaces that live on the ring (meta/commands.py)."""

PACKED_LEVEL: Final = 4
"""From here on a program reads packed chunks of snapshots (snapshot.py). Only its own level counts,
not its group's."""

BLANK_VOTES_LEVEL: Final = 5
"""From here on a replica that is erased leaves a mark, so votes of blank ones count (voting.py)."""

NOT_HEARD: Final = 0
"""Stands for the level of a node that has not said it yet."""


def level_of_all(own: int, others: Iterable[int]) -> int:
    """The level that every member is known to support; NOT_HEARD if one was not heard."""
    return min((own, *others))


def why_not_admitted(node: NodeId, level: int, group_level: int) -> str | None:
    """Why this node may not become a learner of a group of that level, or None if it may."""
    if level >= group_level or group_level == FIRST_LEVEL:
        return None
    if level == NOT_HEARD:
        return (
            f"the group is at feature level {group_level} and {node} was not heard yet; "
            "start it, connect it with this node, and try again"
        )
    return (
        f"the group is at feature level {group_level} and the program of {node} supports "
        f"{level}; upgrade {node} first"
    )


def refuse_below(group_id: int, group_level: int, own: int) -> None:
    """Raises NewerLevelError if a program of level `own` may not have a replica of this group."""
    if group_level > own:
        raise NewerLevelError(
            f"group {group_id} is at feature level {group_level} and this program supports {own}: "
            "it would not know some of the group's commands. Run the version of JanusKV that this "
            f"node ran before, or any later one: it takes one of feature level {group_level} or "
            "above"
        )
