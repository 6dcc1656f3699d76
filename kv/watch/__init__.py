"""Watches: every matching change once, in order, whole revisions at a time."""
