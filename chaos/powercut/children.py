"""The child processes of the harness: how they are started, asked and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import chaos
from chaos.powercut.errors import PowerCutError
from chaos.powercut.workload import Workload

ANSWER_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    head: int
    """How many batches the database shows; -1 if it could not be read."""
    problem: str | None


def environment() -> dict[str, str]:
    """The children import the same packages as this process, whatever the working directory."""
    root = str(Path(chaos.__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}


def writer_command(
    open_text: str, directory: Path, workload: Workload, *, checkpoint_every: int = 0
) -> list[str]:
    return [
        *(sys.executable, "-m", "chaos.powercut.writer"),
        *("--open", open_text),
        *("--directory", str(directory)),
        *("--seed", str(workload.seed)),
        *("--batches", str(workload.batches)),
        *("--large-max-bytes", str(workload.large_max_bytes)),
        *("--checkpoint-every", str(checkpoint_every)),
    ]


class Verifier:
    """Asks verifier processes, one after the other: one that dies of an image is replaced."""

    def __init__(self, open_text: str, workload: Workload) -> None:
        self._command = [
            *(sys.executable, "-m", "chaos.powercut.verifier"),
            *("--open", open_text),
            *("--seed", str(workload.seed)),
            *("--batches", str(workload.batches)),
            *("--large-max-bytes", str(workload.large_max_bytes)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def verify(self, path: Path, *, go_on: bool) -> Verdict:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        request = json.dumps({"path": str(path), "go_on": go_on}).encode() + b"\n"
        try:
            process.stdin.write(request)
            process.stdin.flush()
        except BrokenPipeError:
            return self._died(process)
        if not select.select([process.stdout], [], [], ANSWER_TIMEOUT_S)[0]:
            self.close()
            return Verdict(-1, f"opening it did not end within {ANSWER_TIMEOUT_S:g} s")
        line = process.stdout.readline()
        if not line:
            return self._died(process)
        answer = json.loads(line)
        return Verdict(answer["head"], answer["problem"])

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
        )
        return self._process

    def _died(self, process: subprocess.Popen[bytes]) -> Verdict:
        code = process.wait()
        self.close()
        if code == 1:
            raise PowerCutError("the verifier itself failed; its standard error says why")
        return Verdict(-1, f"opening it ended the process with exit code {code}")

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                pipe.close()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
