"""Takes the network from a process, and the files that it does not need, where the kernel lets an ordinary user do so.

    files      Landlock (Linux 5.13): the process reads the paths that it is given, and writes below one folder
    network    a seccomp filter (Linux 3.17): the process opens no socket of any family, which also keeps it from servers on
               this machine, and calls nothing that reaches into other processes

Neither can be undone, and both hold for all that the process starts. Each is left out where the kernel, the architecture or a
container's own filter refuses it; `find_confinement` returns what holds here. Docker's and systemd's defaults allow both.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_LANDLOCK_RULE_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ACCESS_BY_VERSION: Final = ((1, (1 << 13) - 1), (2, 1 << 13), (3, _TRUNCATE), (5, _IOCTL_DEV))
"""The kinds of access to files that each version of Landlock began to control (linux/landlock.h)."""
_ACCESS_TO_A_FILE: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""The kinds that a rule for a single file may name."""
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_SIGNALS_VERSION: Final = 6
_SCOPE_SIGNAL: Final = 1 << 1
"""The process sends signals only to itself and to processes that it has started."""

_PR_SET_SECCOMP: Final = 22
_PR_GET_SECCOMP: Final = 21
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_ALLOW: Final = 0x7FFF0000
_SECCOMP_REFUSE: Final = 0x00050000 | errno.EACCES
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_NOT_BELOW, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_X32_BIT: Final = 0x40000000
"""Set in numbers of system calls of x86-64 with 32-bit pointers, which have other numbers for the same calls."""


class _Architecture(NamedTuple):
    audit: int
    """Its name in a seccomp filter (linux/audit.h)."""
    refused: tuple[int, ...]
    """The numbers of: socket, ptrace, process_vm_readv, process_vm_writev, add_key, request_key, keyctl,
    perf_event_open, bpf, userfaultfd, unshare, setns, io_uring_setup, pidfd_getfd."""


_ARCHITECTURES: Final = {
    "x86_64": _Architecture(0xC000003E, (41, 101, 310, 311, 248, 249, 250, 298, 321, 323, 272, 308, 425, 438)),
    "aarch64": _Architecture(0xC00000B7, (198, 117, 270, 271, 217, 218, 219, 241, 280, 282, 97, 268, 425, 438)),
}


class Confinement(NamedTuple):
    """What is taken from a process that is confined on this machine."""

    files: bool
    network: bool


def find_confinement() -> Confinement:
    """Return what `confine` would take from a process here. Nothing is taken from this process."""
    if _find_architecture() is None:
        return Confinement(files=False, network=False)
    libc = _load_libc()
    return Confinement(files=_find_landlock_version(libc) > 0, network=libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0)


def confine(readable: Iterable[str], listable: Iterable[str], writable: Iterable[str]) -> Confinement:
    """Confine this process to some paths, each with what is below it; return what was taken from it.

    Below `listable` it sees names and reads no file. Paths that do not exist are passed over. `no_new_privs` must be set
    (prctl(2)).
    """
    architecture = _find_architecture()
    if architecture is None:
        return Confinement(files=False, network=False)
    libc = _load_libc()
    # The filter comes second, because it stays in force from then on.
    return Confinement(_restrict_files(libc, readable, listable, writable), _refuse_calls(libc, architecture))


def _find_architecture() -> _Architecture | None:
    return _ARCHITECTURES.get(os.uname().machine) if sys.platform == "linux" and sys.maxsize > 1 << 32 else None


def _load_libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _find_landlock_version(libc: Any) -> int:
    version: int = libc.syscall(
        ctypes.c_long(_LANDLOCK_CREATE_RULESET),
        None,
        ctypes.c_size_t(0),
        ctypes.c_uint32(_LANDLOCK_CREATE_RULESET_VERSION),
    )
    return max(0, version)


def _restrict_files(libc: Any, readable: Iterable[str], listable: Iterable[str], writable: Iterable[str]) -> bool:
    version = _find_landlock_version(libc)
    if version == 0:
        return False
    handled = sum(access for since, access in _ACCESS_BY_VERSION if since <= version)
    # handled_access_fs, handled_access_net, scoped; an older kernel takes the beginning.
    fields = [handled] if version < _SIGNALS_VERSION else [handled, 0, _SCOPE_SIGNAL]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules: int = libc.syscall(
        ctypes.c_long(_LANDLOCK_CREATE_RULESET), attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
    )
    if rules < 0:
        return False
    try:
        for paths, access in ((readable, _READ), (listable, _READ_DIR), (writable, handled & ~_EXECUTE)):
            for path in paths:
                _add_rule(libc, rules, path, access & handled)
        return bool(libc.syscall(ctypes.c_long(_LANDLOCK_RESTRICT_SELF), ctypes.c_int(rules), ctypes.c_uint32(0)) == 0)
    finally:
        os.close(rules)


def _add_rule(libc: Any, rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= _ACCESS_TO_A_FILE
        rule = struct.pack("=Qi", access, place)
        libc.syscall(
            ctypes.c_long(_LANDLOCK_ADD_RULE),
            ctypes.c_int(rules),
            ctypes.c_int(_LANDLOCK_RULE_PATH_BENEATH),
            rule,
            ctypes.c_uint32(0),
        )
    finally:
        os.close(place)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _refuse_calls(libc: Any, architecture: _Architecture) -> bool:
    count = len(architecture.refused)
    # (code, instructions to skip if true, if false, operand); the last two instructions allow and refuse.
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 0, count + 3, architecture.audit),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_NOT_BELOW, count + 1, 0, _X32_BIT),
        *((_JUMP_IF_EQUAL, count - place, 0, number) for place, number in enumerate(architecture.refused)),
        (_RETURN, 0, 0, _SECCOMP_ALLOW),
        (_RETURN, 0, 0, _SECCOMP_REFUSE),
    ]
    content = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    filter_ = _Filter(len(program), content)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0) == 0)
