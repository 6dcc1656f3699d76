"""What a host does in the next pass of the loop: give answers, let reads leave, write what is due.

Answers are never given from inside the call or the turn that made them, because a caller may do
anything in its callback. Reads leave together, so that all reads of one pass share a probe. What
they and the frames of the pass before have to say to a peer leaves in one frame, at the end: the
probe of a leader with the read index that the same follower asked for, an echo with the next
request. Nothing waits longer for it: whoever writes in this pass would have written in it alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from storage.clock import Scheduler

_logger = logging.getLogger(__name__)


class Soon:
    """Invariant: whenever there are `_readers`, or anything was to leave, `_leave` is scheduled."""

    def __init__(self, scheduler: Scheduler, depart: Callable[[Iterable[int]], None]) -> None:
        """`depart` lets the reads of these groups leave."""
        self._scheduler = scheduler
        self._depart = depart
        self.flush: Callable[[], None] = _nothing
        """Writes what is to be said."""
        self.answers: list[Callable[[], None]] = []
        """Those that wait to be given."""
        self._held = False
        self.on_answered: Callable[[], None] | None = None
        """Told once all answers of a pass were given. It must not raise."""
        self._readers: dict[int, None] = {}
        self._leaving = False

    def answer(self, call: Callable[[], None]) -> None:
        if not self.answers and not self._held:
            self._scheduler.call_soon(self._give_answers)
        self.answers.append(call)

    def hold(self) -> None:
        """The work under way says when it is done and answers may be given (`give`)."""
        self._held = True

    def give(self) -> bool:
        """Give the answers now rather than in the next pass. Whether there were any."""
        self._held = False
        if not self.answers:
            return False
        self._give_answers()
        return True

    def _give_answers(self) -> None:
        if not self.answers:
            return  # a turn that came before this has given them
        answers, self.answers = self.answers, []
        for call in answers:
            try:
                call()
            except Exception:
                # A defect of whoever asked must not take the answers of all others with it.
                _logger.exception("a done callback raised; its defect, the node goes on")
        if self.on_answered is not None:
            self.on_answered()

    def reads_arrived(self, group_id: int) -> None:
        self._readers[group_id] = None
        self.leave()

    def leave(self) -> None:
        """There is something to write."""
        if not self._leaving:
            self._leaving = True
            self._scheduler.call_soon(self._leave)

    def _leave(self) -> None:
        readers = self._readers
        try:
            if readers:
                self._readers = {}
                self._depart(readers)
        finally:
            self._leaving = False
            if self._readers:  # somebody arrived by it
                self.leave()
            self.flush()


def _nothing() -> None:
    pass
