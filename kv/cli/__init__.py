"""The command line `januskv`."""
