"""What a host does in the next pass of the loop: give answers, let reads leave, write what is due.

    answers given --> reads depart --> frames to peers --> (`on_passed`: answers to clients)

Answers are never given from inside the call or the turn that made them, because a caller may do
anything in its callback; a turn gives its own when it is done. Reads leave together, so that all
reads of one pass share a probe. What they and the frames of the pass before have to say to a peer
leaves in one frame, at the end: the probe of a leader with the read index that the same follower
asked for, an echo with the next request. Nothing waits longer for it: whoever writes in this pass
would have written in it alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from storage.clock import Scheduler

_logger = logging.getLogger(__name__)


class Soon:
    """Invariant: whenever there are answers that nobody holds, `_readers`, or anything was to
    leave, a pass is scheduled or under way."""

    def __init__(self, scheduler: Scheduler, depart: Callable[[Iterable[int]], None]) -> None:
        """`depart` lets the reads of these groups leave."""
        self._scheduler = scheduler
        self._depart = depart
        self.flush: Callable[[], None] = _nothing
        """Writes what is to be said."""
        self.answers: list[Callable[[], None]] = []
        """Those that wait to be given."""
        self.held = False
        """The work under way says when it is done and answers may be given (`give`)."""
        self.on_answered: Callable[[], None] | None = None
        """Told once all answers of a pass were given. It must not raise."""
        self.on_pass: Callable[[], None] = _nothing
        self.on_passed: Callable[[], None] = _nothing
        """Told when a pass begins and when all of it is done. They must not raise."""
        self._readers: dict[int, None] = {}
        self.scheduled = False
        """A pass is: whoever has more for it need not say so."""

    def answer(self, call: Callable[[], None]) -> None:
        self.answers.append(call)
        if not (self.held or self.scheduled):
            self.leave()

    def give(self) -> None:
        """Give the answers: now, rather than in the next pass."""
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
        if not self.scheduled:
            self.leave()

    def leave(self) -> None:
        """There is something to write."""
        if not self.scheduled:
            self.scheduled = True
            self._scheduler.call_soon(self._pass)

    def _pass(self) -> None:
        self.on_pass()
        if self.answers:  # else a turn that came before this has given them
            self.give()
        readers = self._readers
        try:
            if readers:
                self._readers = {}
                self._depart(readers)
        finally:
            self.scheduled = False
            if self.answers or self._readers:  # they came by this one
                self.leave()
            self.flush()
            self.on_passed()


def _nothing() -> None:
    pass
