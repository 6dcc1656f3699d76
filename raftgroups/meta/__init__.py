"""The meta group (group 0): which nodes, keyspaces and shards there are, agreed on through a log.

    records.py    what is remembered: nodes, keyspaces, shards, operations under way
    commands.py   what may be asked, and the bytes of it
    refusals.py   what is refused, and why
    view.py       one version of everything, immutable, with its bytes; key -> shard
    rules.py      (view, command) -> (view, answer): which rule is whose, and how everything begins
    *_rules.py    the rules of nodes, keyspaces, shards, and of the operations on shards
    changing.py   how a rule makes the next view
    machine.py    the StateMachine around the rules: rows, versions, who is told

Pure but for machine.py, which reads and writes the engine's rows.
"""
