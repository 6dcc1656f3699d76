"""Proof: deterministic simulation, faults against real processes, independent checkers."""
