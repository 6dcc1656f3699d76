"""How a rule makes the next view of the one that it was given. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from raftgroups.meta.commands import MetaAnswerBody
from raftgroups.meta.view import MetaView

T = TypeVar("T")

Answered = tuple[MetaView, MetaAnswerBody]
"""The next view and what is answered."""


def next_view(view: MetaView, **changes: Any) -> MetaView:
    return replace(view, version=view.version + 1, _tables={}, **changes)


def plus(records: Mapping[T, Any], key: T, record: Any) -> dict[T, Any]:
    return {**records, key: record}


def minus(records: Mapping[T, Any], keys: Iterable[T]) -> dict[T, Any]:
    gone = set(keys)
    return {key: record for key, record in records.items() if key not in gone}
