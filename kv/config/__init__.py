"""A node's configuration: TOML, environment and options in, one frozen Config out.

reading.py    finds the settings of all sources, and every complaint   (load_config is the door)
sections.py   every setting, once: name, kind, default, help
table.py      how a section is made of fields; values.py, units.py, members.py, web.py: kinds
rules.py      what settings must be to each other
parts.py, rocks.py   what a Config means to the parts of a node
sample.py, summary.py   commented samples; what a node would do with it
"""
