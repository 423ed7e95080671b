"""A seccomp filter for snippets: no new processes, no signals to others, no sockets, no kernel corners.

Namespaces hide the machine, resource limits bound one process; what is left is starting more processes
(limits on their number do not bind root) and memory that belongs to no process. This filter takes those away.
It is a program for the kernel's classic BPF machine (linux/filter.h, linux/seccomp.h), assembled here as
bytes.
"""

import platform
import struct

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EPERM, ENOSYS = 1, 38
CLONE_THREAD = 0x00010000
LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_FIRST_ARGUMENT = 0, 4, 16  # in struct seccomp_data

# name: (number on x86_64, number on aarch64); None where the machine has no such call
DENIED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "socket": (41, 198),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "prlimit64": (302, 261),
    "setrlimit": (160, 164),
}
CLONE, CLONE3 = (56, 220), (435, 435)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def supported(machine: str = platform.machine()) -> bool:
    """Whether the filter knows this machine's system call numbers."""
    return machine in ARCHITECTURES


def build_filter(machine: str = platform.machine()) -> bytes:
    """Assemble the filter as an array of `struct sock_filter` (8 bytes each).

    Raises:
        KeyError: the machine is not supported.
    """
    column, arch = ARCHITECTURES[machine]

    def op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    program = [
        op(LOAD, OFFSET_ARCH),
        op(JUMP_EQUAL, arch, 1, 0),
        op(RETURN, ERRNO | EPERM),  # another instruction set's numbers mean other calls
        op(LOAD, OFFSET_NUMBER),
        op(JUMP_GREATER_EQUAL, 0x40000000, 0, 1),
        op(RETURN, ERRNO | EPERM),  # x32: the same calls under other numbers
        op(JUMP_EQUAL, CLONE3[column], 0, 1),
        op(
            RETURN, ERRNO | ENOSYS
        ),  # its flags lie in memory a filter cannot read; libc then falls back to clone
        op(JUMP_EQUAL, CLONE[column], 0, 4),
        op(LOAD, OFFSET_FIRST_ARGUMENT),
        op(JUMP_SET, CLONE_THREAD, 0, 1),
        op(RETURN, ALLOW),  # threads are bounded by the address space
        op(RETURN, ERRNO | EPERM),
    ]
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            program += [op(JUMP_EQUAL, number, 0, 1), op(RETURN, ERRNO | EPERM)]
    program.append(op(RETURN, ALLOW))
    return b"".join(program)
