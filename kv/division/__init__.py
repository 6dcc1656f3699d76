"""Shards that divide themselves: what they carry, which to split and merge, and how, in steps.

every node    meter.py      what is asked of a shard here: rates, sampled keys (pure)
                heavy.py      its hottest keys (pure)
              attendant.py  reports its replicas; finds the middle of a shard when asked to
who leads     divider.py    asks all nodes, begins what is due, does the next step
group 0         figures.py    reports -> what each shard carries (pure)
                cuts.py       where a cut halves the load, and a lock's queue stays whole (pure)
                limits.py     which shard is due to be split or merged, for how long (pure)
                steps.py      the next step of a split or merge, by what is seen (pure)
                words.py      the kinds and steps of operations (pure)
any node      wishes.py     splits and merges that operators ask for
              stand.py      the parts put together for one node
"""
