"""A filter for the system calls of a sandboxed process, as the bytes that ``bwrap --seccomp`` takes.

Namespaces and limits do most of the work. The filter closes what they leave open: memory that no limit counts
(memfd, System V and POSIX messages), the keyring, which has no namespace, new namespaces, another choice of processor,
typing into a terminal, and rarely used parts of the kernel, where its errors are found. All else is allowed.
"""

import platform
import struct

# Number of each call on x86_64 and on aarch64; from 424 on they are the same everywhere.
_CALLS = {
    # memory that neither the size of a tmpfs nor the resident set shows
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "semget": (64, 190), "msgget": (68, 186), "msgsnd": (69, 189), "mq_open": (240, 180),
    # keys
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    # namespaces and file systems
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225),
    # processor and memory of others
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "mbind": (237, 235), "set_mempolicy": (238, 237),
    # rarely used parts of the kernel
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "fanotify_init": (300, 262), "vmsplice": (278, 75),
    "personality": (135, 92), "modify_ldt": (154, None), "iopl": (172, None), "ioperm": (173, None),
    "uselib": (134, None), "lookup_dcookie": (212, 18), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "syslog": (103, 116), "acct": (163, 89), "vhangup": (153, 58), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162),
}  # fmt: skip
# Where on each: the column above, the kernel's mark of the architecture, and calls that depend on an argument.
_MACHINES = {
    "x86_64": (0, 0xC000003E, {"clone": 56, "clone3": 435, "ioctl": 16, "socket": 41, "setsockopt": 54}),
    "aarch64": (1, 0xC00000B7, {"clone": 220, "clone3": 435, "ioctl": 29, "socket": 198, "setsockopt": 208}),
}
MACHINES = tuple(_MACHINES)

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where they stand in what the filter sees
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_NEW_NAMESPACES = 0x7E020000  # all flags CLONE_NEW…
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into a terminal
_FAMILIES = (1,)  # Unix sockets only; others lead nowhere in the sandbox, but their buffers take memory
_BUFFER_SIZES = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and both with force
_X32 = 0x40000000  # the x86 calls of another convention carry this bit


def supported(machine: str | None = None) -> bool:
    """Whether the numbers of this machine's system calls are known here."""
    return (machine or platform.machine()) in _MACHINES


def program(machine: str | None = None) -> bytes:
    """The filter for a machine, this one if none is named."""
    column, architecture, special = _MACHINES[machine or platform.machine()]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERROR | _ENOSYS),
    ]  # fmt: skip
    for numbers in _CALLS.values():
        if numbers[column] is not None:
            steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ERROR | _EPERM)]
    # Without clone3, whose flags lie in memory that a filter cannot read, the C library takes clone.
    steps += [(_EQUAL, 0, 1, special["clone3"]), (_RETURN, 0, 0, _ERROR | _ENOSYS)]
    steps += _when(special["clone"], 0, [(_ANY_BIT, 0, 1, _NEW_NAMESPACES), (_RETURN, 0, 0, _ERROR | _EPERM)])
    steps += _when(special["ioctl"], 1, _each(_TERMINAL, _ERROR | _EPERM))
    steps += _when(special["setsockopt"], 2, _each(_BUFFER_SIZES, _ERROR | _EPERM))
    families = _each(_FAMILIES, _ALLOW)
    steps += _when(special["socket"], 0, [*families, (_RETURN, 0, 0, _ERROR | _EAFNOSUPPORT)])
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _each(values, verdict):
    """Steps that give a verdict on some values of what was loaded."""
    return [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, verdict))]


def _when(number, argument, steps):
    """Steps on the low half of one argument of one call, which is allowed when they say nothing."""
    body = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *steps, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]
