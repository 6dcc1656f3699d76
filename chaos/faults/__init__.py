"""The fault menu: what is done to the nodes, links, disks and clocks of a running cluster."""
