"""What the meta group refuses. As in raftgroups/refusals.py: messages are part of the replicated
answer, so they depend on the command and the state, on nothing else. Pure."""

from __future__ import annotations

from storage.errors import InvalidRequestError


class MetaRefusedError(InvalidRequestError):
    code = "meta_refused"


class KeyspaceExistsError(MetaRefusedError):
    code = "keyspace_exists"


class KeyspaceNotFoundError(MetaRefusedError):
    code = "keyspace_not_found"


class InvalidKeyspaceError(MetaRefusedError):
    """A name, a regime or an option that cannot be."""

    code = "invalid_keyspace"


class UnknownNodeError(MetaRefusedError):
    code = "no_such_node"


class NodeInUseError(MetaRefusedError):
    code = "node_in_use"


class UnknownShardError(MetaRefusedError):
    code = "no_such_shard"


class StaleEpochError(MetaRefusedError):
    """The shard changed since whoever asked looked at it: look again."""

    code = "stale_epoch"


class InvalidShardsError(MetaRefusedError):
    """Ranges that leave a gap or overlap, or ids that nobody allocated."""

    code = "invalid_shards"


class ShardBusyError(MetaRefusedError):
    code = "shard_busy"


class OperationNotFoundError(MetaRefusedError):
    code = "no_such_operation"


class StaleStepError(MetaRefusedError):
    """The operation is at another step than whoever asked believed."""

    code = "stale_step"
