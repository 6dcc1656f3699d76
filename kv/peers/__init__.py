"""JanusKV and the real etcd side by side: clusters started as a user would, measured in turn."""
