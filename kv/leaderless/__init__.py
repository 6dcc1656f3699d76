"""The leaderless regime: always writable, conflicts kept and resolved honestly."""
