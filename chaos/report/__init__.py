"""A run as a page: everything in one file, nothing from the network."""
