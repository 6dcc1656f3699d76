"""The fast lane: the hot routes of the HTTP port, in front of aiohttp (ARCHITECTURE.md)."""
