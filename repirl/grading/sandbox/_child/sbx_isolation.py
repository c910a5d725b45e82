"""Namespaces, a private root, Landlock, capabilities and limits, by plain system calls (Linux only).

Runs in the sandbox's server process only, before any program arrives. Raises OSError where the kernel says no.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
import sys

from sbx_wipe import FOLDER_MODE

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
CLONE_NEWIPC, CLONE_NEWUTS = 0x08000000, 0x04000000
ALL_BUT_USER = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 4096, 16384, 1 << 18, 1024, 2048, 1 << 21
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 24, 38, 47
NOBODY = 65534
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446
# What fits in the scratch folder: enough for honest programs, little enough that filling it hurts nobody.
TMP_MIB, TMP_INODES = 32, 2048


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(libc.unshare(flags), "unshare")


def prctl(option: int, *args: int) -> None:
    """prctl(2)."""
    padded = [ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]]
    _check(libc.prctl(option, *padded), f"prctl {option}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    raw = [None if s is None else os.fsencode(s) for s in (source, target, kind, options)]
    _check(libc.mount(raw[0], raw[1], raw[2], ctypes.c_ulong(flags), raw[3]), f"mount {target}")


def map_own_user(uid: int, gid: int, proc_self: int) -> None:
    """After unshare(NEWUSER): maps the one user and group onto themselves. `proc_self` is a descriptor of /proc/self."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(name, os.O_WRONLY, dir_fd=proc_self)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def python_paths() -> list[str]:
    """What an isolated Python needs to read: its standard library and the system's shared libraries."""
    stdlib = os.path.realpath(os.path.dirname(os.__file__))
    prefix_lib = os.path.realpath(os.path.join(sys.base_prefix, "lib"))
    wanted = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", prefix_lib, stdlib]
    kept: list[str] = []
    for path in wanted:
        covered = any(path == k or path.startswith(k + "/") for k in kept)
        if os.path.lexists(path) and not covered:
            kept.append(path)
    return kept


def hidden_paths() -> list[str]:
    """Folders inside `python_paths()` that hold other people's packages (and perhaps this very project)."""
    stdlib = os.path.realpath(os.path.dirname(os.__file__))
    found = [os.path.join(stdlib, "site-packages"), os.path.join(stdlib, "dist-packages")]
    found += ["/usr/lib/python3/dist-packages", f"/usr/local/lib/python3.{sys.version_info.minor}/dist-packages"]
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]


def _bind_read_only(source: str, target: str) -> None:
    mount(source, target, None, MS_BIND | MS_REC)
    # A remount in a user namespace may add flags but must repeat those that the original mount carries.
    have = os.statvfs(target).f_flag
    keep = {os.ST_NOEXEC: MS_NOEXEC, os.ST_NOATIME: MS_NOATIME, os.ST_NODIRATIME: MS_NODIRATIME}
    keep |= {os.ST_RELATIME: MS_RELATIME}
    flags = MS_RDONLY | MS_NOSUID | (0 if target.startswith("/dev/") else MS_NODEV)
    mount(None, target, None, MS_REMOUNT | MS_BIND | flags | sum(m for s, m in keep.items() if have & s))


def private_root(machine: str) -> str:
    """Replaces the root by an empty read-only one with Python's files, four devices and a private scratch folder.

    Returns the scratch folder, `/tmp` unless Python itself lives below that.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    sources, hidden = python_paths(), hidden_paths()
    mount("sandbox", "/tmp", "tmpfs", MS_NOSUID, "size=1m,mode=755")
    os.chdir("/tmp")
    os.mkdir(".old")
    _check(libc.syscall(SYS_PIVOT_ROOT[machine], b".", b".old"), "pivot_root")
    os.chdir("/")
    for path in [*sources, "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]:
        old = "/.old" + path
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        if os.path.islink(old):
            os.symlink(os.readlink(old), path)
            continue
        if os.path.isdir(old):
            os.makedirs(path, mode=0o755, exist_ok=True)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        _bind_read_only(old, path)
    for path in hidden:
        if os.path.isdir(path):
            mount("hidden", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=755")
    scratch = "/tmp" if not os.path.lexists("/tmp") else "/scratch"
    os.mkdir(scratch)
    options = f"size={TMP_MIB}m,nr_inodes={TMP_INODES},mode={FOLDER_MODE:o}"
    mount("scratch", scratch, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    _check(libc.umount2(b"/.old", MNT_DETACH), "umount of the old root")
    os.rmdir("/.old")
    mount(None, "/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID)
    os.chdir(scratch)
    return scratch


def readable_by_all(path: str) -> bool:
    """Whether any user may list this folder, the ones above it included."""
    if not os.stat(path).st_mode & stat.S_IROTH:
        return False
    while os.stat(path).st_mode & stat.S_IXOTH:
        if path == "/":
            return True
        path = os.path.dirname(path)
    return False


def become_nobody() -> None:
    """From root to an ordinary user without groups."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def drop_capabilities(machine: str) -> None:
    """Empties every capability set and forbids to gain any by exec."""
    for cap in range(64):
        if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(cap), 0, 0, 0) != 0:
            break  # EINVAL past the last one; EPERM where there is none to drop
    libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(4), 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _check(libc.syscall(SYS_CAPSET[machine], header, (ctypes.c_uint32 * 6)()), "capset")
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def landlock(readable: list[str], writable: list[str]) -> None:
    """Restricts the process to reading `readable` and changing `writable`; no TCP, no signals outwards where known.

    Raises OSError where the kernel has no Landlock.
    """
    abi = _check(libc.syscall(SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)), "landlock")
    if abi < 2:  # version 1 forbids every move between folders, which emptying the private folder needs
        raise OSError(errno.EOPNOTSUPP, "landlock version 1 is too old")
    all_fs = (1 << {2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    fields = [all_fs] + ([3] if abi >= 4 else []) + ([3] if abi >= 6 else [])
    attr = (ctypes.c_uint64 * len(fields))(*fields)
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    ruleset = _check(libc.syscall(SYS_LANDLOCK_CREATE, attr, size, ctypes.c_uint32(0)), "landlock ruleset")
    execute, write_file, read_file, read_dir = 1, 2, 4, 8
    truncate = 1 << 14 if abi >= 3 else 0
    rules = [(p, execute | read_file | read_dir) for p in readable] + [(p, all_fs) for p in writable]
    rules += [(p, read_file | write_file | truncate) for p in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")]
    for path, rights in rules:
        if not os.path.exists(path):
            continue
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            rights &= execute | write_file | read_file | truncate
        rule = ctypes.create_string_buffer(rights.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder), 12)
        result = libc.syscall(SYS_LANDLOCK_ADD, ruleset, 1, rule, ctypes.c_uint32(0))
        os.close(fd)
        _check(result, f"landlock rule for {path}")
    _check(libc.syscall(SYS_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0)), "landlock restrict")
    os.close(ruleset)


def set_limits(cpu_s: int, memory_bytes: int, file_bytes: int, open_files: int, threads: int | None) -> None:
    """Resource limits of one program, soft equal to hard so that none can be raised or caught.

    `threads` counts every process and thread of the user, so it is None where the user is not the sandbox's own.
    """
    lowered = {resource.RLIMIT_CPU: cpu_s, resource.RLIMIT_AS: memory_bytes, resource.RLIMIT_FSIZE: file_bytes}
    lowered |= {resource.RLIMIT_NOFILE: open_files, resource.RLIMIT_CORE: 0}
    if threads is not None:
        lowered[resource.RLIMIT_NPROC] = threads
    lowered |= {resource.RLIMIT_MEMLOCK: 1 << 16, resource.RLIMIT_STACK: 64 << 20}
    for which, value in lowered.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
