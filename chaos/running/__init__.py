"""A run: a cluster is started, loaded, broken, healed and judged."""
