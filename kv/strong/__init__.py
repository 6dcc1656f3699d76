"""The strong regime: a shard served over its Raft group."""
