"""JanusKV above its regimes: requests, routing, HTTP faces, client and command line."""
