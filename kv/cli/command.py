"""What a command is, and the parser that all commands share."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from typing import NoReturn, Protocol


class Command(Protocol):
    name: str
    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int:
        """The exit code. Errors are raised: JanusError becomes one line and exit code 2."""
        ...


class Parser(argparse.ArgumentParser):
    """argparse that answers a wrong call with one line: what is wrong, what was probably meant."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}{self._hint(message)}; see {self.prog} --help\n")

    def _hint(self, message: str) -> str:
        words = [word.strip("',:()") for word in message.split()]
        known = self._known()
        for word in words[::-1]:
            near = difflib.get_close_matches(word.split("=")[0], known, n=1, cutoff=0.6)
            if near and word not in known:
                return f" (did you mean {near[0]}?)"
        return ""

    def _known(self) -> list[str]:
        """Every option and command, of the commands below too: argparse reports an unknown option
        of a command from the top."""
        known: list[str] = []
        for action in self._actions:
            known += action.option_strings
            if isinstance(action.choices, dict):
                known += list(action.choices)
                for below in action.choices.values():
                    known += below._known()
        return known


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """An argparse type: an integer of a range, written plainly or with thousands separators."""

    def parse(text: str) -> int:
        try:
            number = int(text.replace("_", "").replace(",", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(f"{number} is outside {minimum}..{maximum}")
        return number

    return parse
