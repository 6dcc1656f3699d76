"""Who is in the cluster, where keys live, and how nodes talk."""
