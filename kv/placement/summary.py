"""What the planner sees and does, for people. Pure."""

from __future__ import annotations

from collections import Counter

from kv.placement.messages import GroupSummary, MoveSummary, NodeSummary, Summary
from kv.placement.observed import Observation
from kv.placement.plan import Plan
from raftgroups.transport import NodeId

SUMMARY_VERSION = 1


def summary_of(planner: NodeId, seen: Observation, plan: Plan, *, settled: bool) -> Summary:
    replicas = Counter(node for group in seen.groups for node in group.voters)
    leading = Counter(group.leader for group in seen.groups if group.leader is not None)
    return Summary(
        SUMMARY_VERSION,
        planner,
        settled,
        plan.waiting,
        plan.short,
        plan.stuck,
        tuple(
            NodeSummary(
                node.node, node.reachable, node.full, replicas[node.node], leading[node.node]
            )
            for node in seen.nodes
        ),
        tuple(
            GroupSummary(
                group.group,
                group.leader or "",
                group.voters,
                group.learners,
                group.copies,
                seen.leaders[group.group].keys if group.group in seen.leaders else 0,
            )
            for group in seen.groups
        ),
        tuple(
            MoveSummary(
                group.group,
                filling.node,
                group.leader or "",
                filling.lag,
                filling.snapshot,
                filling.rows,
                filling.bytes,
                seen.leaders[group.group].rows,
            )
            for group in seen.groups
            if group.group in seen.leaders
            for filling in seen.leaders[group.group].filling
        ),
    )
