"""etcd's v3 JSON gateway over the strong regime."""
