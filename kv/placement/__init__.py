"""Where the replicas of shards live, and who moves them (kv/ARCHITECTURE.md, "Placement")."""
