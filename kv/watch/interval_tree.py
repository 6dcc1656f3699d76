"""Ranges of keys, each with a value, and the question which of them hold a given key.

A treap (a search tree by (start, end) that is a heap by priority) whose nodes also know the largest
end below them. A query leaves out every subtree that ends at or before the key, and every right
half that starts behind it, so it visits O(log n) nodes for each range it finds. The priorities are
a hash of a counter: sorted input does no harm, and one run is as the next.

Every end is a key; for an unbounded range give one that is above all keys. Each (start, end) is in
the tree at most once.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

V = TypeVar("V")

_MASK: Final = 2**64 - 1


def _mixed(number: int) -> int:
    """A bijection of 64 bits that leaves no order in consecutive numbers."""
    number = (number * 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    return number ^ (number >> 31)


class _Node(Generic[V]):
    __slots__ = ("end", "left", "max_end", "priority", "right", "start", "value")

    def __init__(self, start: bytes, end: bytes, value: V, priority: int) -> None:
        self.start = start
        self.end = end
        self.value = value
        self.priority = priority
        self.left: _Node[V] | None = None
        self.right: _Node[V] | None = None
        self.max_end = end
        """The largest end in this subtree."""

    def renew(self) -> None:
        end = self.end
        if self.left is not None and self.left.max_end > end:
            end = self.left.max_end
        if self.right is not None and self.right.max_end > end:
            end = self.right.max_end
        self.max_end = end


class IntervalTree(Generic[V]):
    __slots__ = ("_added", "_count", "_root")

    def __init__(self) -> None:
        self._root: _Node[V] | None = None
        self._added = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, start: bytes, end: bytes, value: V) -> None:
        assert start < end
        self._added += 1
        self._root = _insert(self._root, _Node(start, end, value, _mixed(self._added)))
        self._count += 1

    def remove(self, start: bytes, end: bytes) -> None:
        """It must be there."""
        self._root = _without(self._root, start, end)
        self._count -= 1

    def collect(self, key: bytes, found: list[V]) -> None:
        """Append the values of all ranges that hold the key."""
        if self._root is None:
            return
        stack = [self._root]
        while stack:
            node = stack.pop()
            if node.max_end <= key:
                continue
            if node.left is not None:
                stack.append(node.left)
            if node.start <= key:
                if key < node.end:
                    found.append(node.value)
                if node.right is not None:
                    stack.append(node.right)

    def height(self) -> int:
        def below(node: _Node[V] | None) -> int:
            return 0 if node is None else 1 + max(below(node.left), below(node.right))

        return below(self._root)


def _insert(node: _Node[V] | None, new: _Node[V]) -> _Node[V]:
    if node is None:
        return new
    if new.priority > node.priority:
        new.left, new.right = _split(node, new.start, new.end)
        new.renew()
        return new
    if (new.start, new.end) < (node.start, node.end):
        node.left = _insert(node.left, new)
    else:
        assert (new.start, new.end) != (node.start, node.end), "the range is already in the tree"
        node.right = _insert(node.right, new)
    node.renew()
    return node


def _split(
    node: _Node[V] | None, start: bytes, end: bytes
) -> tuple[_Node[V] | None, _Node[V] | None]:
    """The ranges before (start, end), and those after it."""
    if node is None:
        return None, None
    if (node.start, node.end) < (start, end):
        node.right, after = _split(node.right, start, end)
        node.renew()
        return node, after
    before, node.left = _split(node.left, start, end)
    node.renew()
    return before, node


def _without(node: _Node[V] | None, start: bytes, end: bytes) -> _Node[V] | None:
    assert node is not None, f"no range {start!r} to {end!r} in the tree"
    if (node.start, node.end) == (start, end):
        return _joined(node.left, node.right)
    if (start, end) < (node.start, node.end):
        node.left = _without(node.left, start, end)
    else:
        node.right = _without(node.right, start, end)
    node.renew()
    return node


def _joined(left: _Node[V] | None, right: _Node[V] | None) -> _Node[V] | None:
    """One tree of two, all of the left being before all of the right."""
    if left is None or right is None:
        return left or right
    if left.priority > right.priority:
        left.right = _joined(left.right, right)
        left.renew()
        return left
    right.left = _joined(left, right.left)
    right.renew()
    return right
