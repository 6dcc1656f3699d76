"""Scenarios as values: what is loaded, what is broken and when, what is asked at the end."""
