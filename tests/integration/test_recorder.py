"""The recorder against real programs: nothing may escape it, and what it cannot see it refuses.

`Recorder.check` compares the recording, played without a power cut, with the files that are there.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from chaos.powercut.errors import RecordingError
from chaos.powercut.recorder import Recorder, Run
from chaos.powercut.recording import (
    Acknowledge,
    Create,
    Effect,
    Link,
    Recording,
    Remove,
    Rename,
    Resize,
    Scribble,
    Sync,
    Write,
    Zero,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tracing")]


class Recorded:
    """Programs that run in the recorded directory."""

    def __init__(self, root: Path, *volatile: str) -> None:
        self.root = root
        self.recorder = Recorder(root, volatile=volatile)

    def run(self, text: str, *, timeout_s: float = 60.0, kill_at: int | None = None) -> Run:
        program = f"import os\nos.chdir({str(self.root)!r})\n{textwrap.dedent(text)}"
        command = [sys.executable, "-c", program]
        return self.recorder.run(command, timeout_s=timeout_s, kill_at=kill_at)

    def effects(self, text: str) -> list[Effect]:
        result = self.run(text)
        assert result.exit_code == 0, result.errors
        return [call.effect for call in self.recorder.check().calls]


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def kinds(effects: list[Effect]) -> Counter[str]:
    return Counter(type(effect).__name__ for effect in effects)


def test_every_way_to_write_is_seen(recorded: Recorded) -> None:
    effects = recorded.effects(
        """
        fd = os.open("f", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"one")
        os.write(os.dup(fd), b"two")          # shares the position
        os.pwrite(fd, b"three", 10)
        os.writev(fd, [b"four", b"", b"five"])
        os.pwritev(fd, [b"six", b"seven"], 100)
        os.pwritev(fd, [b"eight"], 200, os.RWF_DSYNC)
        append = os.open("f", os.O_WRONLY | os.O_APPEND)
        os.write(append, b"nine")
        os.pwrite(append, b"ten", 0)          # Linux appends even so
        synced = os.open("f", os.O_WRONLY | os.O_DSYNC)
        os.pwrite(synced, b"eleven", 300)
        os.lseek(fd, 400, os.SEEK_SET)
        os.write(fd, b"x" * 100_000)
        """
    )
    writes = [effect for effect in effects if isinstance(effect, Write)]
    assert kinds(effects) == {"Create": 1, "Write": 10}
    assert [(write.offset, write.data[:6]) for write in writes] == [
        (0, b"one"),
        (3, b"two"),
        (10, b"three"),
        (6, b"fourfi"),  # pwrite left the position alone
        (100, b"sixsev"),
        (200, b"eight"),
        (205, b"nine"),
        (209, b"ten"),
        (300, b"eleven"),
        (400, b"xxxxxx"),
    ]
    assert [write.data for write in writes if write.synced] == [b"eight", b"eleven"]


def test_every_way_to_change_names_is_seen(recorded: Recorded) -> None:
    effects = recorded.effects(
        """
        os.mkdir("d")
        open("d/a", "w").close()
        os.rename("d/a", "d/b")
        open("c", "w").close()
        os.replace("c", "d/b")
        os.link("d/b", "d/l")
        os.unlink("d/b")
        here = os.open("d", os.O_RDONLY)
        os.rename("l", "m", src_dir_fd=here, dst_dir_fd=here)
        os.mkdir("e", dir_fd=here)
        os.rmdir("e", dir_fd=here)
        os.rename("d", "dd")
        os.unlink(os.path.abspath("dd/m"))
        os.rmdir("dd")
        for bad in (lambda: os.mkdir("/"), lambda: os.unlink("none"), lambda: os.rmdir("none")):
            try:
                bad()
            except OSError:
                pass
        """
    )
    assert kinds(effects) == {"Create": 4, "Rename": 4, "Link": 1, "Remove": 4}
    renames = [effect for effect in effects if isinstance(effect, Rename)]
    assert [rename.replaced is not None for rename in renames] == [False, True, False, False]


def test_lengths_and_holes_are_seen(recorded: Recorded) -> None:
    effects = recorded.effects(
        """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
        fd = os.open("f", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"x" * 10_000)
        os.ftruncate(fd, 9_000)
        os.truncate("f", 8_500)
        assert libc.fallocate(fd, 1, 0, 50_000) == 0           # keeps the size
        assert libc.fallocate(fd, 0, 0, 12_000) == 0
        assert libc.fallocate(fd, 3, 4_096, 4_096) == 0        # a hole
        os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
        os.write(fd, b"behind the old end")
        """
    )
    sizes = [effect.size for effect in effects if isinstance(effect, Resize)]
    holes = [(effect.offset, effect.length) for effect in effects if isinstance(effect, Zero)]
    assert sizes == [9_000, 8_500, 12_000, 0]
    assert holes == [(4_096, 4_096)]


def test_syncs_are_seen_and_only_of_this_directory(
    recorded: Recorded, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "g"
    effects = recorded.effects(
        f"""
        fd = os.open("f", os.O_RDWR | os.O_CREAT)
        os.fsync(fd)
        os.fdatasync(fd)
        os.fsync(os.open(".", os.O_RDONLY))
        other = os.open({str(elsewhere)!r}, os.O_RDWR | os.O_CREAT)
        os.write(other, b"x")
        os.fsync(other)
        os.sync()
        """
    )
    synced = [effect.file for effect in effects if isinstance(effect, Sync)]
    created = [effect.file for effect in effects if isinstance(effect, Create)]
    assert synced == [created[0], created[0], 0, None]


def test_a_sync_that_the_kernel_makes_spans_from_its_submission_to_its_end(
    recorded: Recorded,
) -> None:
    effects = recorded.effects(
        """
        from storage.kernel_sync import KernelSync
        fd = os.open("f", os.O_RDWR | os.O_CREAT)
        kernel = KernelSync()
        os.write(fd, b"before")
        kernel.submit(fd)
        os.write(fd, b"meanwhile")
        kernel.wait()
        os.write(1, b"it ended, and nobody looked")
        assert kernel.end() == 0
        os.write(fd, b"after")
        kernel.submit(fd)
        kernel.close()                        # nobody looks
        """
    )
    said = {"before", "meanwhile", "after"}
    calls = recorded.recorder.recording().calls
    at = {
        call.effect.data.decode(): call
        for call in calls
        if isinstance(call.effect, Write) and call.effect.data.decode() in said
    }
    (told,) = (call for call in calls if isinstance(call.effect, Acknowledge))
    (sync,) = (call for call in calls if isinstance(call.effect, Sync))
    assert kinds(effects)["Sync"] == 1
    assert sync.left is not None
    assert at["before"].left is not None
    assert told.left is not None
    assert at["before"].left < sync.entered < at["meanwhile"].entered
    assert told.left < sync.left < at["after"].entered


def test_a_number_that_is_used_again_names_another_file(recorded: Recorded) -> None:
    effects = recorded.effects(
        """
        for name in ("a", "b", "c"):
            with open(name, "w") as file:
                file.write(name * 10)
            os.unlink(name)
        open("last", "w").write("last")
        """
    )
    created = [effect.file for effect in effects if isinstance(effect, Create)]
    assert len(set(created)) == 4


def test_what_was_there_before_is_durable(recorded: Recorded, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").write_bytes(b"old")
    again = Recorded(tmp_path)
    effects = again.effects("open('d/old', 'r+').write('new')")
    recording = again.recorder.recording()
    assert [item.entry.name for item in recording.initial] == ["d", "old"]
    assert recording.initial[1].content == b"old"
    assert kinds(effects) == {"Write": 1}


def test_threads_and_children_are_followed_in_their_true_order(recorded: Recorded) -> None:
    """Four threads and a child, each writing its own file, and passing a baton in a shared one."""
    effects = recorded.effects(
        """
        import subprocess, sys, threading
        shared = os.open("shared", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        batons = [threading.Semaphore(int(i == 0)) for i in range(4)]

        def work(me):
            own = os.open(f"own{me}", os.O_WRONLY | os.O_CREAT)
            for turn in range(25):
                os.write(own, b"%d" % turn)
                batons[me].acquire()
                os.write(shared, b"%d %d\\n" % (turn, me))
                batons[(me + 1) % 4].release()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        [t.start() for t in threads]
        child = "import os; os.write(os.open('child', 66), b'child'); os.sync()"
        subprocess.run([sys.executable, "-c", child], check=True)
        [t.join() for t in threads]
        """
    )
    created = [effect for effect in effects if isinstance(effect, Create)]
    files = {effect.entry.name: effect.file for effect in created}
    assert set(files) == {"shared", "own0", "own1", "own2", "own3", "child"}
    shared = [
        effect.data
        for effect in effects
        if isinstance(effect, Write) and effect.file == files["shared"]
    ]
    assert shared == [b"%d %d\n" % (turn, me) for turn in range(25) for me in range(4)]
    assert any(isinstance(effect, Sync) and effect.file is None for effect in effects)
    threads = {call.thread for call in recorded.recorder.recording().calls}
    assert len(threads) == 6


def test_acknowledgements_are_writes_to_standard_output(recorded: Recorded) -> None:
    effects = recorded.effects(
        """
        os.write(1, b"ack 1\\n")
        os.write(2, b"not this\\n")
        fd = os.open("f", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"nor this")
        os.write(os.dup(1), b"ack 2\\n")
        """
    )
    said = [effect.text for effect in effects if isinstance(effect, Acknowledge)]
    assert said == [b"ack 1\n", b"ack 2\n"]


def test_a_program_that_is_killed_and_started_again_is_one_recording(recorded: Recorded) -> None:
    program = """
        fd = os.open("f", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(1, b"start %d" % os.fstat(fd).st_size)
        for _ in range(100):
            os.write(fd, b"x" * 10)
        """
    first = recorded.run(program, kill_at=101)
    assert first.exit_code == -9
    second = recorded.run(program)
    assert second.exit_code == 0
    recording = recorded.recorder.check()
    said = [text for _, text in recording.acknowledgements()]
    # Two positions each: the creation, the first line, then 48.5 writes; the last one is let out.
    assert said == [b"start 0", b"start 490"]
    assert len((recorded.root / "f").read_bytes()) == 490 + 1000


def test_exit_codes_and_errors_are_reported(recorded: Recorded) -> None:
    failed = recorded.run("import sys; sys.exit('so it went')")
    assert (failed.exit_code, failed.errors) == (1, "so it went\n")
    assert failed.stops > 100
    assert recorded.run("os.kill(os.getpid(), 15)").exit_code == -15


def test_signals_reach_the_program(recorded: Recorded) -> None:
    effects = recorded.effects(
        """
        import signal
        seen = []
        signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
        os.kill(os.getpid(), signal.SIGUSR1)
        open("f", "w").write(repr(seen))
        """
    )
    assert [effect.data for effect in effects if isinstance(effect, Write)] == [b"[10]"]


def test_a_stopped_program_goes_on_when_it_is_told_to(recorded: Recorded) -> None:
    effects = recorded.effects(
        """
        import signal
        me = os.getpid()
        if os.fork() == 0:
            while open(f"/proc/{me}/stat").read().rsplit(")", 1)[1].split()[0] not in "Tt":
                pass
            os.kill(me, signal.SIGCONT)
            os._exit(0)
        os.kill(me, signal.SIGSTOP)
        open("f", "w").write("on")
        os.wait()
        """
    )
    assert [effect.data for effect in effects if isinstance(effect, Write)] == [b"on"]


def test_a_program_that_hangs_is_ended(recorded: Recorded) -> None:
    with pytest.raises(RecordingError, match=r"did not end within 0\.5 s"):
        recorded.run("import threading; threading.Event().wait()", timeout_s=0.5)


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_machine_without_ptrace_is_skipped_but_not_in_ci(
    recorded: Recorded, ci: str, outcome: str
) -> None:
    """A traced program cannot trace its children: they have a tracer already."""
    project = Path(__file__).parents[2]
    result = recorded.run(
        f"""
        import subprocess, sys
        os.environ["CI"] = {ci!r}
        test = "{Path(__file__)}::test_exit_codes_and_errors_are_reported"
        options = ["-q", "-p", "no:cacheprovider", "--rootdir", {str(project)!r}]
        command = [sys.executable, "-m", "pytest", *options, test]
        ended = subprocess.run(command, cwd={str(project)!r}, capture_output=True, text=True)
        sys.exit(ended.stdout)
        """
    )
    assert outcome in result.errors
    assert "this machine does not permit ptrace of a child process" in result.errors


# --- what cannot be seen is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        pytest.param("import mmap; mmap.mmap(fd, 4096)", "mapped shared and writable", id="mmap"),
        pytest.param(
            """
            import ctypes, mmap
            libc = ctypes.CDLL(None)
            libc.mmap.restype = ctypes.c_void_p
            address = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
            libc.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_WRITE)
            """,
            "mapped shared and writable",
            id="mprotect",
        ),
        pytest.param(
            "import ctypes; ctypes.CDLL(None).syscall(425, 4, bytes(120))",
            "io_uring_setup",
            id="io_uring",
        ),
        pytest.param(
            """
            import ctypes, struct
            request = ctypes.create_string_buffer(struct.pack("=16xHhI40x", 1, 0, fd), 64)
            array = (ctypes.c_void_p * 1)(ctypes.addressof(request))
            from storage.kernel_sync import NUMBERS
            number = NUMBERS[os.uname().machine].submit
            ctypes.CDLL(None).syscall(number, ctypes.c_ulong(0), ctypes.c_long(1), array)
            """,
            "io_submit of a request of kind 1",
            id="aio",
        ),
        pytest.param(
            "os.sendfile(fd, os.open('/proc/self/exe', 0), 0, 100)", "sendfile", id="sendfile"
        ),
        pytest.param(
            "os.copy_file_range(os.open('g', 66), fd, 1)", "copy_file_range", id="copy_file_range"
        ),
        pytest.param("import fcntl; fcntl.ioctl(fd, 0x40049409, 0)", "FICLONE", id="reflink"),
        pytest.param("os.symlink('f', 'g')", "symlink", id="symlink"),
        pytest.param("os.mkfifo('g')", "mknod", id="fifo"),
        pytest.param("os.rename('f', '/tmp/no-such-directory/f')", "edge of the tree", id="out"),
    ],
)
def test_what_cannot_be_seen_is_refused(recorded: Recorded, program: str, complaint: str) -> None:
    text = "fd = os.open('f', os.O_RDWR | os.O_CREAT)\nos.ftruncate(fd, 4096)\n"
    with pytest.raises(RecordingError, match=complaint):
        recorded.run(text + textwrap.dedent(program))


def test_a_volatile_file_may_be_mapped(tmp_path: Path) -> None:
    effects = Recorded(tmp_path, "lock").effects(
        """
        import mmap
        fd = os.open("lock", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 4096)
        mmap.mmap(fd, 4096)[:5] = b"hello"
        """
    )
    assert any(isinstance(effect, Scribble) for effect in effects)


@pytest.mark.parametrize("change", ["content", "name", "directory"])
def test_a_change_behind_the_recorders_back_is_noticed(recorded: Recorded, change: str) -> None:
    recorded.effects("open('f', 'w').write('seen')")
    if change == "content":
        (recorded.root / "f").write_text("SEEN")
    elif change == "name":
        (recorded.root / "f").rename(recorded.root / "g")
    else:
        (recorded.root / "d").mkdir()
    with pytest.raises(RecordingError, match=r"differ"):
        recorded.recorder.check()


def test_the_kernels_file_calls_are_all_in_the_recording(recorded: Recorded) -> None:
    """The shortest useful program: names, then data, then syncs, each at its place."""
    recorded.effects(
        """
        fd = os.open("f.new", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"data")
        os.fsync(fd)
        os.rename("f.new", "f")
        os.link("f", "g")
        os.unlink("f")
        """
    )
    recording: Recording = recorded.recorder.recording()
    assert [type(call.effect) for call in recording.calls] == [
        Create,
        Write,
        Sync,
        Rename,
        Link,
        Remove,
    ]
    assert [(call.entered, call.left) for call in recording.calls] == [
        (2 * i, 2 * i + 1) for i in range(6)
    ]
    assert os.listdir(recorded.root) == ["g"]
