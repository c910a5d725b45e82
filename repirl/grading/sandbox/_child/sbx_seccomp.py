"""The system-call filter that hostile code runs under: a denylist, compiled to classic BPF by hand.

Why a denylist: an allowlist breaks with each libc and Python release, and what it would add is covered by the other
layers (namespaces, Landlock, no capabilities). System calls newer than this table answer ENOSYS, so a future one is
not open by accident. Every process, signal to others, socket (but for pairs), mount and program start is refused with
EPERM, and so is all of System V IPC and of message queues, whose objects belong to the host where namespaces are missing.

What stays open at level `weak`, where files, processes and users are the host's: reading whatever Landlock (if there is
one) leaves readable, a FIFO or device included; and counting against the limits of its user, of whom it may be a part
(threads, pipe buffers, inotify instances), for as long as it runs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

LD_W_ABS, JEQ, JGE, JGT, JSET, RET = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
OFFSET_NR, OFFSET_ARCH = 0, 4
NEWEST_KNOWN = 462  # mseal, Linux 6.10; both tables below share the numbers from 424 on
CLONE_THREAD = 0x00010000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

ARCH = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit architecture, column of the tables

# name: (x86_64, aarch64); None where the architecture has no such call
DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162),
    "syslog": (103, 116), "quotactl": (179, 60), "quotactl_fd": (443, 443), "personality": (135, 92),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "fanotify_init": (300, 262), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "shmdt": (67, 197), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184), "mq_getsetattr": (245, 185), "sync": (162, 81), "syncfs": (306, 267),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "memfd_secret": (447, 447), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "vmsplice": (278, 75), "mknod": (133, None),
    "mknodat": (259, 33), "remap_file_pages": (216, 234), "lookup_dcookie": (212, 18), "uselib": (134, None),
}  # fmt: skip

# Refused to programs only: their server needs them.
DENIED_PROGRAMS: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "memfd_create": (319, 279), "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
}  # fmt: skip

# Refused as well where no private file system could be made: anything that changes or locks a file by name.
DENIED_WRITES: dict[str, tuple[int | None, int | None]] = {
    "creat": (85, None), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "truncate": (76, 45), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88),
    "futimesat": (261, None), "flock": (73, 32),
}  # fmt: skip

CLONE, CLONE3, KILL, TGKILL = (56, 220), (435, 435), (62, 129), (234, 131)
PRLIMIT64, FCNTL, IOCTL, PRCTL = (302, 261), (72, 25), (16, 29), (157, 167)
SOCKETPAIR, SENDTO, AF_UNIX = (53, 199), (44, 206), 1
OPEN, OPENAT, OPENAT2 = (2, None), (257, 56), (437, 437)
# F_SETOWN, F_SETSIG, F_SETOWN_EX send signals of any kind to any process of the same user; F_SETLEASE and F_NOTIFY
# hold up those who open a file. FCNTL_LOCKS: F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW.
FCNTL_DENIED = (8, 10, 15, 1024, 1026)
FCNTL_LOCKS = (6, 7, 37, 38)
# What Python itself asks for: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2. Others set the owner of
# a descriptor, type into a terminal or change the attributes of a file that was opened for reading.
IOCTL_ALLOWED = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
PR_SET_PDEATHSIG = 1  # not to be undone: a program dies with its server
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _ins(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, k)


def _arg(index: int) -> int:
    """Offset of the low 32 bits of an argument (little endian, the only byte order supported)."""
    return 16 + 8 * index


def _ret(errno_or_zero: int) -> bytes:
    return _ins(RET, ALLOW if errno_or_zero == 0 else ERRNO | errno_or_zero)


def _block(nr: int, body: bytes) -> bytes:
    """`body` (which must end in returns) for system call `nr`, skipped for the others."""
    return _ins(JEQ, nr, 0, len(body) // 8) + body


def _by_value(index: int, values: tuple[int, ...], listed: int, other: int) -> bytes:
    """Returns errno `listed` where the argument is among `values`, else `other`; 0 allows the call."""
    return _ins(LD_W_ABS, _arg(index)) + b"".join(_ins(JEQ, k, 0, 1) + _ret(listed) for k in values) + _ret(other)


def _start(arch: str) -> tuple[list[bytes], int]:
    """Checks the architecture and loads the call's number. Raises KeyError on an architecture without a table."""
    audit_arch, col = ARCH[arch]
    out = [_ins(LD_W_ABS, OFFSET_ARCH), _ins(JEQ, audit_arch, 1, 0), _ins(RET, KILL_PROCESS)]
    return [*out, _ins(LD_W_ABS, OFFSET_NR)], col


def server_filter(arch: str, deny_writes: bool) -> bytes:
    """What neither the server nor any program may do; `deny_writes`: nor any change of a file by name."""
    out, col = _start(arch)
    # NEWEST_KNOWN also stops the x32 numbers, which start at 2**30.
    out += [_ins(JGT, NEWEST_KNOWN, 0, 1), _ret(errno.ENOSYS)]
    out.append(_block(PRLIMIT64[col], _by_value(0, (0,), 0, errno.EPERM)))
    out.append(_block(FCNTL[col], _by_value(1, FCNTL_DENIED + (FCNTL_LOCKS if deny_writes else ()), errno.EPERM, 0)))
    out.append(_block(IOCTL[col], _by_value(1, IOCTL_ALLOWED, 0, errno.EOPNOTSUPP)))
    out.append(_block(SOCKETPAIR[col], _by_value(0, (AF_UNIX,), 0, errno.EPERM)))
    table = dict(DENIED)
    if deny_writes:
        table |= DENIED_WRITES
        out.append(_block(OPENAT2[col], _ret(errno.ENOSYS)))
        for pair, flags_arg in ((OPEN, 1), (OPENAT, 2)):
            if (nr := pair[col]) is not None:
                flags = _ins(LD_W_ABS, _arg(flags_arg)) + _ins(JSET, WRITE_FLAGS, 0, 1) + _ret(errno.EACCES) + _ret(0)
                out.append(_block(nr, flags))
    return b"".join(out) + _deny(table, col)


def program_filter(arch: str, own_pid: int) -> bytes:
    """What a program may not do besides: make processes, signal others, send to a named socket (`sendmsg` hides the
    name behind a pointer). Small, as it is installed once per program."""
    out, col = _start(arch)
    # Threads yes, processes no. clone3 hides its flags behind a pointer: ENOSYS makes libc use clone.
    out.append(_block(CLONE3[col], _ret(errno.ENOSYS)))
    threads_only = _ins(LD_W_ABS, _arg(0)) + _ins(JSET, CLONE_THREAD, 0, 1) + _ret(0) + _ret(errno.EPERM)
    out.append(_block(CLONE[col], threads_only))
    only_itself = _by_value(0, (own_pid,), 0, errno.EPERM)
    out += [_block(KILL[col], only_itself), _block(TGKILL[col], only_itself)]
    out.append(_block(PRCTL[col], _by_value(0, (PR_SET_PDEATHSIG,), errno.EPERM, 0)))
    low, high = _ins(LD_W_ABS, _arg(4)), _ins(LD_W_ABS, _arg(4) + 4)  # where the name is
    nameless = low + _ins(JEQ, 0, 0, 3) + high + _ins(JEQ, 0, 0, 1) + _ret(0) + _ret(errno.EPERM)
    out.append(_block(SENDTO[col], nameless))
    return b"".join(out) + _deny(DENIED_PROGRAMS, col)


def _deny(table: dict[str, tuple[int | None, int | None]], col: int) -> bytes:
    numbers = sorted(nr for pair in table.values() if (nr := pair[col]) is not None)
    # on a match jump over the rest and the ALLOW, to the EPERM
    chain = [_ins(JEQ, nr, len(numbers) - position, 0) for position, nr in enumerate(numbers)]
    return b"".join(chain) + _ret(0) + _ret(errno.EPERM)


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def install(libc: ctypes.CDLL, program: bytes) -> None:
    """Puts the filter on the calling process for good (NO_NEW_PRIVS must be set). Raises OSError."""
    fprog = _FilterProgram(len(program) // 8, program)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, "seccomp filter refused: " + os.strerror(number))
