"""The page arithmetic of an LMDB file, from the figures that its meta page keeps.

    last page + 1  =  2 meta pages  +  the tree (branch, leaf, overflow)  +  the others

The others lie on the free list, hold the free list itself, or were freed under a snapshot that is
still open. The binding does not open the free list, so these three cannot be told apart: all of the
others count as reusable, and while snapshots are open (at most for their maximum age) that is too
much by what they pin. What one commit frees is taken by the commit after the next. A value larger
than a page needs neighbouring free pages, and there may be none.

Live bytes are an upper bound: leaves count as full, whereas random inserts leave them about two
thirds full, and ascending ones leave them full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

META_PAGES: Final = 2
PAGE_HEADER_BYTES: Final = 16
NODE_BYTES: Final = 10  # a pair's header and its entry in the page's index


@dataclass(frozen=True, slots=True)
class PageFigures:
    page_bytes: int
    last_page: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    pairs: int

    @property
    def tree_pages(self) -> int:
        return self.branch_pages + self.leaf_pages + self.overflow_pages

    @property
    def other_pages(self) -> int:
        return max(0, self.last_page + 1 - META_PAGES - self.tree_pages)

    @property
    def reusable_bytes(self) -> int:
        return self.other_pages * self.page_bytes

    @property
    def live_bytes(self) -> int:
        leaves = self.leaf_pages * (self.page_bytes - PAGE_HEADER_BYTES)
        overflow = self.overflow_pages * self.page_bytes
        return max(0, leaves + overflow - self.pairs * NODE_BYTES)

    @property
    def least_file_bytes(self) -> int:
        """A shorter file was cut. (The others may lie behind the end: they were never written.)"""
        return (META_PAGES + self.tree_pages) * self.page_bytes
