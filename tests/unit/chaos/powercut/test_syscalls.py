"""The tables of system call numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.powercut.syscalls import AARCH64, X86_64


def test_the_two_tables_name_the_same_calls() -> None:
    """aarch64 has only the calls that take a directory descriptor."""
    only_x86 = {"open", "creat", "mkdir", "rmdir", "link", "unlink", "symlink", "mknod", "rename"}
    assert set(X86_64.values()) - only_x86 - {"renameat"} == set(AARCH64.values()) - {"renameat"}
    assert len(set(AARCH64.values())) == len(AARCH64)
    assert len(set(X86_64.values())) == len(X86_64)


@pytest.mark.parametrize(
    ("table", "header", "prefix"),
    [
        (X86_64, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", ("__NR_",)),
        (AARCH64, "/usr/include/asm-generic/unistd.h", ("__NR_", "__NR3264_")),
    ],
)
def test_the_numbers_are_the_kernels(
    table: dict[int, str], header: str, prefix: tuple[str, ...]
) -> None:
    if not Path(header).exists():
        pytest.skip(f"this machine has no {header} to compare with")
    numbers = {}
    for line in Path(header).read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "#define" and words[2].isdigit():
            for start in prefix:
                if words[1].startswith(start):
                    numbers.setdefault(words[1].removeprefix(start), int(words[2]))
    assert {name: numbers[name] for name in table.values()} == {n: k for k, n in table.items()}
