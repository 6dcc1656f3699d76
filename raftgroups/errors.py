"""The errors of this package, under the one tree of storage/errors.py.

Everything that a caller may run into at any time is an outcome, not an exception (outcomes.py);
these are misuse, or the end of the node.
"""

from __future__ import annotations

from storage.errors import InvalidRequestError, StorageError


class GroupExistsError(InvalidRequestError):
    """The engine knows this group already: it is formed or joined once and never again."""

    code = "group_exists"


class NoSuchGroupError(InvalidRequestError):
    code = "no_such_group"


class NewerLevelError(StorageError):
    """A group has reached a feature level that this program does not support. The node must stop:
    it cannot execute what the others do."""

    code = "newer_level"


class BrokenLogError(StorageError):
    """The log contradicts itself or what was committed. The node must stop: going on could lose or
    change what was acknowledged."""

    code = "broken_log"
