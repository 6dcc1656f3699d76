"""Runs a program under ptrace and records what it does to the files of a directory.

One thread traces: it seizes the program before its first instruction, follows every thread and
child, and is told of each system call twice, on entering and on leaving. The kernel waits at both
stops, so the order in which this thread sees them is a true order: a call does nothing before its
entry was seen, and a thread that acts on another's result is seen later than it.

Each interesting stop takes the next position of the recording. Two runs over the same directory
(the first one killed, say) make one recording.

The proof of completeness is `check`: the recording, played without a power cut, must give exactly
the files that are really there. Whatever escaped the recorder shows as a difference.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.powercut import ptrace
from chaos.powercut.decode import Decoder, Finish
from chaos.powercut.disk import Disk
from chaos.powercut.errors import RecordingError, TracingUnavailableError
from chaos.powercut.recording import Call, Recording, Sync
from chaos.powercut.submitted import Begun, Ended, Request
from chaos.powercut.tree import Tree

# Waits for one byte, so that the tracer can seize it first; then becomes the program.
_GATE: Final = "import os,sys;os.read(0,1);os.execv(sys.argv[1],sys.argv[1:])"
_TAIL_CHARACTERS: Final = 2_000
_JOB_CONTROL: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


@dataclass(slots=True)
class _Started:
    """A call that was entered and not yet left."""

    entered: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class Run:
    """How a traced program ended."""

    exit_code: int
    """As in subprocess: negative for a signal."""
    stops: int
    """System call stops seen, interesting or not."""
    errors: str
    """The end of its standard error."""


class Recorder:
    """Records programs that work on one directory, one after the other."""

    def __init__(self, root: Path, *, volatile: Collection[str] = ()) -> None:
        self.root = root
        self._tree = Tree(root)
        self._volatile = frozenset(volatile)
        self._calls: list[Call] = []
        self._counts: Counter[str] = Counter()
        self._submitted: dict[Request, tuple[int, Sync]] = {}
        """Syncs under way in the kernel, with the position at which they were entered."""
        self.position = 0

    def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
        kill_at: int | None = None,
    ) -> Run:
        """Run the program to its end, or kill -9 it once `kill_at` positions were taken (at the
        first moment from then on at which no recorded call is under way)."""
        session = _Session(self, list(command), environment, timeout_s, kill_at)
        thread = threading.Thread(target=session.run, name="tracer")
        thread.start()
        thread.join()
        if session.failure is not None:
            raise session.failure
        assert session.result is not None
        return session.result

    def recording(self) -> Recording:
        calls = tuple(sorted(self._calls, key=lambda call: call.entered))
        return Recording(calls, self._tree.initial, dict(self._counts))

    def check(self) -> Recording:
        """The recording, after comparing it with the files that are there."""
        recording = self.recording()
        disk = Disk(recording)
        disk.advance(recording.end)
        image = disk.latest()
        root = Path(self._tree.root)
        there = {str(p.relative_to(root)): p for p in sorted(root.rglob("*"))}
        files = {n: p for n, p in there.items() if p.is_file() and p.name not in self._volatile}
        directories = {name for name, path in there.items() if path.is_dir()}
        recorded = {n: d for n, d in image.files.items() if Path(n).name not in self._volatile}
        if set(files) != set(recorded) or directories != set(image.directories):
            difference = sorted(set(files) ^ set(recorded)) + sorted(
                directories ^ set(image.directories)
            )
            raise RecordingError(f"names differ from the recording: {', '.join(difference)}")
        for name, path in files.items():
            if path.read_bytes() != recorded[name]:
                raise RecordingError(f"the content of {path} differs from the recording")
        return recording

    # --- called by the session ---

    def take_position(self) -> int:
        self.position += 1
        return self.position - 1

    def count(self, name: str) -> None:
        self._counts[name] += 1

    def add(self, started: _Started, left: int | None, result: int | None, thread: int) -> None:
        effect = started.finish(result)
        if isinstance(effect, Begun):
            for request, sync in effect.syncs:
                self._submitted[request] = started.entered, sync
        elif isinstance(effect, Ended):
            for request in effect.badly:
                self._submitted.pop(request, None)
            for request in effect.well:
                if (begun := self._submitted.pop(request, None)) is not None:
                    entered, sync = begun
                    self._calls.append(Call(entered, left, sync, thread))
        elif effect is not None and not (left is None and isinstance(effect, Sync)):
            self._calls.append(Call(started.entered, left, effect, thread))

    def decoder(self, output: os.stat_result) -> Decoder:
        return Decoder(self._tree, output, self._volatile)


class _Session:
    """One traced program. Everything after __init__ happens in the tracer thread."""

    def __init__(
        self,
        recorder: Recorder,
        command: list[str],
        environment: Mapping[str, str] | None,
        timeout_s: float,
        kill_at: int | None,
    ) -> None:
        self._recorder = recorder
        self._command = command
        self._environment = environment
        self._timeout_s = timeout_s
        self._kill_at = kill_at
        self._under_way: dict[int, _Started] = {}
        self._stops = 0
        self._exit_status: int | None = None
        self._timed_out = threading.Event()
        self.failure: BaseException | None = None
        self.result: Run | None = None

    def run(self) -> None:
        try:
            with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
                code = self._trace(output.fileno(), errors.fileno())
                errors.seek(0)
                text = errors.read().decode(errors="replace")[-_TAIL_CHARACTERS:]
                self.result = Run(code, self._stops, text)
        except BaseException as error:  # noqa: BLE001  handed to the caller's thread, which raises it
            self.failure = error

    def _trace(self, output: int, errors: int) -> int:
        self._decoder = self._recorder.decoder(os.fstat(output))
        child = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _GATE, *self._command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=self._environment,
        )
        assert child.stdin is not None
        self._pid = child.pid
        self._process = os.pidfd_open(child.pid)
        watchdog = threading.Timer(self._timeout_s, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            ptrace.seize(child.pid)
            ptrace.interrupt(child.pid)
            self._follow(child.stdin.fileno())
        except BaseException:
            self._kill()
            raise
        finally:
            watchdog.cancel()
            self._drain()
            os.close(self._process)
            assert self._exit_status is not None
            child.returncode = os.waitstatus_to_exitcode(self._exit_status)
            child.stdin.close()
        if self._timed_out.is_set():
            raise RecordingError(
                f"the traced program did not end within {self._timeout_s:g} s and was killed: "
                f"{' '.join(self._command)}"
            )
        return child.returncode

    def _give_up(self) -> None:
        self._timed_out.set()
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def _drain(self) -> None:
        """Wait until nothing that was traced is left."""
        while True:
            try:
                tid, status = os.waitpid(-1, ptrace.WALL | ptrace.NO_OTHER_THREADS)
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                ptrace.resume(tid, signal.SIGKILL)
            elif tid == self._pid:
                self._exit_status = status

    def _follow(self, gate: int) -> None:
        """The tracer's loop, until no traced thread is left."""
        opened = False
        while True:
            try:
                tid, status = os.waitpid(-1, ptrace.WALL | ptrace.NO_OTHER_THREADS)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                self._ended(tid, status)
                continue
            self._stopped(tid, status)
            if not opened:
                opened = True
                os.write(gate, b"\n")

    def _ended(self, tid: int, status: int) -> None:
        started = self._under_way.pop(tid, None)
        if started is not None:
            self._recorder.add(started, None, None, tid)
        if tid == self._pid:
            self._exit_status = status

    def _stopped(self, tid: int, status: int) -> None:
        stop_signal, event = os.WSTOPSIG(status), status >> 16
        if stop_signal == signal.SIGTRAP | 0x80:
            self._stops += 1
            self._system_call(tid)
            ptrace.resume(tid)
        elif event == ptrace.EVENT_STOP and stop_signal in _JOB_CONTROL:
            ptrace.listen(tid)
        elif event:
            ptrace.resume(tid)
        else:
            ptrace.resume(tid, stop_signal)

    def _system_call(self, tid: int) -> None:
        call = ptrace.system_call(tid)
        if isinstance(call, ptrace.Entered):
            name = self._decoder.name_of(call)
            if name is None:
                return
            self._recorder.count(name)
            finish = self._decoder.enter(tid, name, call.arguments)
            if finish is not None:
                self._under_way[tid] = _Started(self._recorder.take_position(), finish)
        elif call is not None:
            started = self._under_way.pop(tid, None)
            if started is None:
                return
            self._recorder.add(started, self._recorder.take_position(), call.result, tid)
            if (
                self._kill_at is not None
                and self._recorder.position >= self._kill_at
                and not self._under_way
            ):
                self._kill()


def tracing_unavailable() -> str | None:
    """Why this machine cannot record; None if it can."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            Recorder(Path(directory)).run([sys.executable, "-S", "-E", "-c", ""], timeout_s=30)
        except TracingUnavailableError as error:
            return str(error)
    return None
