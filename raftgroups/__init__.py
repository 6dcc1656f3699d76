"""Many safe Raft groups in one process. Knows nothing of HTTP, of keyspaces or of clients."""
