"""What a node measures and how Prometheus reads it. Begin with metrics.py.

`Metrics` is the one object that others hold; CONTENT_TYPE goes with what its `render()` gives.
"""

from kv.metrics.exposition import CONTENT_TYPE
from kv.metrics.metrics import Endpoint, Metrics, NodeInfo
from kv.metrics.scrape import Sources

__all__ = ["CONTENT_TYPE", "Endpoint", "Metrics", "NodeInfo", "Sources"]
