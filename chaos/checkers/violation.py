"""What a checker returns when it found something. Pure: values only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: str
    """The checker's name: election_safety, linearizability, ..."""
    message: str
    """One sentence: what must hold, and where it did not."""
    details: tuple[str, ...] = field(default=())
    """Lines of evidence."""

    def __str__(self) -> str:
        return "\n".join([f"{self.invariant}: {self.message}", *(f"  {d}" for d in self.details)])
