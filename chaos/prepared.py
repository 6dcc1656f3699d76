"""A node whose program is loaded and that begins when told: `python -m chaos.prepared serve ...`.

A node that joins comes on a machine of its own. Here it shares two cores with those that serve, and
loading its program, a second and a half of one core, would be what a measured join costs. So it is
loaded before, waits for a line on its standard input, and then is `januskv` with these arguments.
An input that ends without a line ends it.
"""

from __future__ import annotations

import sys

import kv.app
import kv.cli.serve
import kv.node
from chaos.server import PREPARED
from kv.cli.main import main

LOADED = (kv.app, kv.cli.serve, kv.node)


def run() -> int:
    sys.stdout.write(PREPARED + "\n")
    sys.stdout.flush()
    return main(sys.argv[1:]) if sys.stdin.readline() else 0


if __name__ == "__main__":
    raise SystemExit(run())
