"""Seccomp: the filter of system calls in the sandbox, as a program for the kernel's packet filter.

It refuses what namespaces and limits do not hold: memory that no process owns (memfd, System V), new namespaces and
mounts, keys of the kernel, tracing, and sockets other than those of the sandbox's own network. The opcodes are those
of linux/filter.h, the numbers of calls those of the kernel's tables for each machine.
"""

import errno
import platform
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

_LOAD, _EQUAL, _ATLEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _MACHINE, _FIRST, _SECOND = 0, 4, 16, 24
"""Offsets of a call's number, its machine and the low halves of its first arguments."""
_NEW_NAMESPACES: Final = 0x7E020080
_FAMILIES: Final = (1, 2, 10)
"""Families of sockets: local, IPv4 and IPv6. The virtual machine's own (vsock) knows no namespace."""
_TERMINAL_INPUT: Final = (0x5412, 0x541C)
_X32: Final = 0x40000000

_COMMON: Final = {
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "memfd_secret": 447,
}


class Machine(NamedTuple):
    """A kind of processor: its number in the audit of the kernel, and the numbers of its calls."""

    audit: int
    refused: Mapping[str, int]
    clone: int
    socket: int
    ioctl: int
    clone3: int = 435
    x32: bool = False


_MACHINES: Final = {
    "x86_64": Machine(
        0xC000003E,
        {
            **_COMMON,
            "shmget": 29,
            "semget": 64,
            "msgget": 68,
            "ptrace": 101,
            "syslog": 103,
            "pivot_root": 155,
            "chroot": 161,
            "acct": 163,
            "mount": 165,
            "umount2": 166,
            "swapon": 167,
            "swapoff": 168,
            "reboot": 169,
            "init_module": 175,
            "delete_module": 176,
            "quotactl": 179,
            "mq_open": 240,
            "kexec_load": 246,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "unshare": 272,
            "perf_event_open": 298,
            "name_to_handle_at": 303,
            "open_by_handle_at": 304,
            "setns": 308,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "kcmp": 312,
            "finit_module": 313,
            "memfd_create": 319,
            "kexec_file_load": 320,
            "bpf": 321,
            "userfaultfd": 323,
        },
        clone=56,
        socket=41,
        ioctl=16,
        x32=True,
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            **_COMMON,
            "umount2": 39,
            "mount": 40,
            "pivot_root": 41,
            "chroot": 51,
            "quotactl": 60,
            "acct": 89,
            "unshare": 97,
            "kexec_load": 104,
            "init_module": 105,
            "delete_module": 106,
            "syslog": 116,
            "ptrace": 117,
            "reboot": 142,
            "mq_open": 180,
            "msgget": 186,
            "semget": 190,
            "shmget": 194,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "swapon": 224,
            "swapoff": 225,
            "perf_event_open": 241,
            "name_to_handle_at": 264,
            "open_by_handle_at": 265,
            "setns": 268,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "kcmp": 272,
            "finit_module": 273,
            "memfd_create": 279,
            "bpf": 280,
            "userfaultfd": 282,
            "kexec_file_load": 294,
        },
        clone=220,
        socket=198,
        ioctl=29,
    ),
}


def is_known() -> bool:
    """Return True if there is a filter for the processor of this machine."""
    return platform.machine() in _MACHINES


def program() -> bytes:
    """Return the filter for this machine, as the kernel reads it."""
    return b"".join(struct.pack("<HBBI", *one) for one in _instructions(_MACHINES[platform.machine()]))


_Instruction = tuple[int, int, int, int]
"""Opcode, jumps if true and if false, and operand."""


def _instructions(machine: Machine) -> Iterator[_Instruction]:
    yield from (_load(_MACHINE), _if(machine.audit, 1, 0), _return(_KILL), _load(_NUMBER))
    if machine.x32:
        yield from ((_ATLEAST, 0, 1, _X32), _refuse(errno.EPERM))
    for number in sorted(machine.refused.values()):
        yield from (_if(number, 0, 1), _refuse(errno.EPERM))
    yield from (_if(machine.clone3, 0, 1), _refuse(errno.ENOSYS))  # its flags are out of reach; clone takes its place
    yield from (_if(machine.clone, 0, 4), _load(_FIRST), (_ANY_BIT, 0, 1, _NEW_NAMESPACES))
    yield from (_refuse(errno.EPERM), _return(_ALLOW))
    yield from _only(machine.socket, _FAMILIES, errno.EAFNOSUPPORT)
    yield from _without(machine.ioctl, _TERMINAL_INPUT)
    yield _return(_ALLOW)


def _only(call: int, allowed: tuple[int, ...], code: int) -> Iterator[_Instruction]:
    """Yield the check of a call whose first argument has to be one of some values."""
    yield from (_if(call, 0, len(allowed) + 3), _load(_FIRST))
    for at, value in enumerate(allowed):
        yield _if(value, len(allowed) - at, 0)
    yield from (_refuse(code), _return(_ALLOW))


def _without(call: int, refused: tuple[int, ...]) -> Iterator[_Instruction]:
    """Yield the check of a call whose second argument may not be one of some values."""
    yield from (_if(call, 0, len(refused) + 3), _load(_SECOND))
    for at, value in enumerate(refused):
        yield _if(value, len(refused) - at, 0)
    yield from (_return(_ALLOW), _refuse(errno.EPERM))


def _load(offset: int) -> _Instruction:
    return (_LOAD, 0, 0, offset)


def _if(value: int, then: int, otherwise: int) -> _Instruction:
    return (_EQUAL, then, otherwise, value)


def _return(value: int) -> _Instruction:
    return (_RETURN, 0, 0, value)


def _refuse(code: int) -> _Instruction:
    return _return(_ERRNO | code)
