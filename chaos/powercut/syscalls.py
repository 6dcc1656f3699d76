"""The system calls that can change a file or make a change durable, by architecture. Pure.

The numbers are those of the kernel's tables (x86-64 has its own, aarch64 uses the generic one). A
call that is in no list here cannot change the content, the length or the name of a file, except
through a mapping, which mmap and mprotect show.
"""

from __future__ import annotations

from typing import Final

AUDIT_ARCH_X86_64: Final = 0xC000003E
AUDIT_ARCH_AARCH64: Final = 0xC00000B7

X86_64: Final[dict[int, str]] = {
    1: "write",
    2: "open",
    9: "mmap",
    10: "mprotect",
    16: "ioctl",
    18: "pwrite64",
    20: "writev",
    26: "msync",
    40: "sendfile",
    74: "fsync",
    75: "fdatasync",
    76: "truncate",
    77: "ftruncate",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    85: "creat",
    86: "link",
    87: "unlink",
    88: "symlink",
    133: "mknod",
    162: "sync",
    208: "io_getevents",
    209: "io_submit",
    257: "openat",
    258: "mkdirat",
    259: "mknodat",
    263: "unlinkat",
    264: "renameat",
    265: "linkat",
    266: "symlinkat",
    275: "splice",
    277: "sync_file_range",
    285: "fallocate",
    296: "pwritev",
    304: "open_by_handle_at",
    306: "syncfs",
    316: "renameat2",
    326: "copy_file_range",
    328: "pwritev2",
    329: "pkey_mprotect",
    333: "io_pgetevents",
    425: "io_uring_setup",
    437: "openat2",
}

AARCH64: Final[dict[int, str]] = {
    2: "io_submit",
    4: "io_getevents",
    29: "ioctl",
    33: "mknodat",
    34: "mkdirat",
    35: "unlinkat",
    36: "symlinkat",
    37: "linkat",
    38: "renameat",
    45: "truncate",
    46: "ftruncate",
    47: "fallocate",
    56: "openat",
    64: "write",
    66: "writev",
    68: "pwrite64",
    70: "pwritev",
    71: "sendfile",
    76: "splice",
    81: "sync",
    82: "fsync",
    83: "fdatasync",
    84: "sync_file_range",
    222: "mmap",
    226: "mprotect",
    227: "msync",
    265: "open_by_handle_at",
    267: "syncfs",
    276: "renameat2",
    285: "copy_file_range",
    287: "pwritev2",
    288: "pkey_mprotect",
    292: "io_pgetevents",
    425: "io_uring_setup",
    437: "openat2",
}

BY_ARCHITECTURE: Final[dict[int, dict[int, str]]] = {
    AUDIT_ARCH_X86_64: X86_64,
    AUDIT_ARCH_AARCH64: AARCH64,
}
