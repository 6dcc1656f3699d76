"""A node's keyspaces (kv/api/context.py Keyspaces): there is `default`, and nothing changes."""

from __future__ import annotations

from kv.api.keyspace_bodies import (
    CreateKeyspaceBody,
    KeyspaceShown,
    OptionsGiven,
    OptionsShown,
    QuotasShown,
    ShardOperation,
    ShardShown,
)
from raftgroups.meta.refusals import KeyspaceExistsError, KeyspaceNotFoundError, UnknownShardError

DEFAULT = KeyspaceShown(
    1,
    "default",
    "strong",
    "active",
    1,
    OptionsShown(3, 2, 2, 0, 0, 0, 0, QuotasShown(0, 0, 0, 0), "siblings", False, 50),
)


class KeyspacesDouble:
    async def look_anew(self) -> None:
        pass

    def all(self) -> list[KeyspaceShown]:
        return [DEFAULT]

    def named(self, name: str) -> KeyspaceShown:
        if name != "default":
            raise KeyspaceNotFoundError("there is no such keyspace")
        return DEFAULT

    def shards(self, name: str | None) -> list[ShardShown]:
        self.named(name or "default")
        return [ShardShown(1, "default", "", None, 1, "active", ["n1"], "n1")]

    async def create(self, wanted: CreateKeyspaceBody, deadline_s: float | None) -> KeyspaceShown:
        raise KeyspaceExistsError("there is one of this name")

    async def alter(
        self, name: str, wanted: OptionsGiven, deadline_s: float | None
    ) -> KeyspaceShown:
        return self.named(name)

    async def drop(self, name: str, deadline_s: float | None) -> None:
        self.named(name)

    async def split(self, shard: int, key: bytes) -> tuple[ShardShown, ShardShown]:
        raise UnknownShardError("there is no such shard")

    async def merge(self, left: int, right: int | None) -> ShardShown:
        raise UnknownShardError("there is no such shard")

    async def end_merge(self, shard: int) -> ShardOperation:
        if shard == 1:
            return ShardOperation(4, "merge", "gather", [1, 2], 5, 6, "asked for")
        raise UnknownShardError("there is no such shard")
