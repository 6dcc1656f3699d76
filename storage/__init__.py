"""Engines, records and group commit. Knows nothing of replication."""
