"""The REST face: plain JSON and raw bytes over HTTP (REST.md is for its users)."""
