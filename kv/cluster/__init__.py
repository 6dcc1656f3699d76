"""What joins nodes to a cluster: the peer link now; ring, gossip and membership come here."""
