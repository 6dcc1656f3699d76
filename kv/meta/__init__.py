"""A node's part in the meta group: what it knows of the cluster, and how it asks for changes.

beginning.py     what a cluster begins with; which nodes host group 0 (pure)
map_file.py      the newest view on the disk, for nodes that host no replica of group 0
cluster_map.py   the newest view that this node knows, and who is told of it
service.py       asking for changes, spreading versions, asking for newer ones
keeper.py        groups here follow the map: formed, served, erased
    keyspace_admin.py  what operators ask about keyspaces and shards
"""
