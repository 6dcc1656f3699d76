"""A small TCP proxy that breaks connections on demand, with toxiproxy's HTTP API."""
