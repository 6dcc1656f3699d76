"""Judges of a run. Pure: each takes what was observed and returns the violations it found."""
