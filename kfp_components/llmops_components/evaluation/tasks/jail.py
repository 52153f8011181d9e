"""Starts a program in namespaces of its own: no network, no files but Python's, no other processes, no rights.

A program by itself, with Python's standard library alone: it is started for each run, changes what it is step by step, and cannot go back.

1. New user, mount, process, network, IPC and host name namespaces.
2. A root file system in memory: Python and system libraries, read-only, ``/dev/null``, ``/dev/urandom``, and an empty ``/tmp`` of limited size.
3. No capabilities, no new privileges, limits on memory, time, files and file sizes, and a filter of system calls: no sockets, no further
   processes (threads may be), no namespaces, nothing of other processes.

What cannot be had ends it before the program runs, and is said on the file descriptor ``status``; there is no way on without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import stat
import struct
import sys
from pathlib import Path
from typing import Any

NOBODY = 65534
_NAMESPACES = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
_CLONE_THREAD = 0x00010000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000
# Flags of a mount that a namespace within may not take away.
_KEPT = {
    2: 2,
    4: 4,
    8: 8,
    1024: 1024,
    2048: 2048,
    4096: 1 << 21,
}  # of statvfs: nosuid, nodev, noexec, (no|nodir|rel)atime
_MNT_DETACH = 2
_MAX_FILES = 4096  # their names take memory that the size does not count
_PDEATHSIG, _SECCOMP, _NO_NEW_PRIVS, _CAPBSET_READ, _CAPBSET_DROP = 1, 22, 38, 23, 24
_SECCOMP_FILTER = 2
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_LOAD, _IS, _IS_AT_LEAST, _HAS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_X32 = 0x40000000
# Number of each system call that is refused, which says no more than that it is not permitted.
_NEW_MOUNTS = (428, 429, 430, 431, 432, 442)
_NEWER = (425, *_NEW_MOUNTS)  # io_uring and mounts have the same numbers everywhere
_MACHINES: dict[str, dict[str, Any]] = {
    "x86_64": {
        "arch": 0xC000003E,
        "pivot_root": 155,
        "clone": 56,
        # socket, fork, vfork, ptrace, pivot_root, mount, umount2, chroot, add_key, request_key, keyctl, unshare, perf_event_open,
        # setns, process_vm_readv, process_vm_writev, bpf, userfaultfd
        # shmget, msgget, memfd_create, memfd_secret: memory that no limit counts
        "uncounted": (29, 68, 319, 447),
        "refused": (41, 57, 58, 101, 155, 165, 166, 161, 248, 249, 250, 272, 298, 308, 310, 311, 321, 323),
    },
    "aarch64": {
        "arch": 0xC00000B7,
        "pivot_root": 41,
        "clone": 220,
        "uncounted": (194, 186, 279, 447),
        "refused": (198, 117, 41, 40, 39, 51, 217, 218, 219, 97, 241, 268, 270, 271, 280, 282),
    },
}
_CLONE3 = 435
_libc = ctypes.CDLL(None, use_errno=True)


class JailError(Exception):
    """The sandbox cannot be had."""


def main() -> int:
    """Start what the first argument says."""
    given = json.loads(sys.argv[1])
    status = given["status"]
    os.set_inheritable(status, False)  # it closes where the program starts
    try:
        return _started(given)
    except (JailError, OSError) as error:
        os.write(status, str(error).encode()[:1000])
        return 1


def _started(given: dict[str, Any]) -> int:
    if platform.machine() not in _MACHINES:
        raise JailError(f"the machine is {platform.machine()}: known are {', '.join(_MACHINES)}")
    _prctl(_PDEATHSIG, signal.SIGKILL)
    ready, tells_ready = os.pipe()
    mapped, tells_mapped = os.pipe()
    inner = os.fork()
    if not inner:
        os.close(ready)
        os.close(tells_mapped)
        _exit_with(given, lambda: _within(given, tells_ready, mapped))
    os.close(tells_ready)
    os.close(mapped)
    has_namespaces = os.read(ready, 1)
    is_nobody = has_namespaces and _map(inner)
    if has_namespaces:
        os.write(tells_mapped, b"2" if is_nobody else b"1")
    os.close(tells_mapped)
    os.close(given["status"])
    return os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0x7F


def _exit_with(given: dict[str, Any], does: Any) -> None:
    """What a child process does; it never comes back from here."""
    code = 1
    try:
        code = does()
    except (JailError, OSError) as error:
        with contextlib.suppress(OSError):
            os.write(given["status"], str(error).encode()[:1000])
    finally:
        os._exit(code)


def _map(inner: int) -> bool:
    """Who is who in the new namespace; whether it has somebody who is nobody outside, too."""
    uid, gid, at = os.geteuid(), os.getegid(), Path(f"/proc/{inner}")
    if uid == 0:
        with contextlib.suppress(OSError):
            both = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
            (at / "gid_map").write_text(both)
            (at / "uid_map").write_text(both)
            return True
    with contextlib.suppress(OSError):
        (at / "setgroups").write_text("deny")
        (at / "gid_map").write_text(f"{NOBODY} {gid} 1\n")
    (at / "uid_map").write_text(f"{NOBODY} {uid} 1\n")
    return False


def _within(given: dict[str, Any], tells_ready: int, mapped: int) -> int:
    flags = 0
    for flag in _NAMESPACES.values():
        flags |= flag
    _call("unshare", flags)
    _prctl(_PDEATHSIG, signal.SIGKILL)
    os.write(tells_ready, b"1")
    how = os.read(mapped, 1)
    if not how:
        raise JailError("the user namespace cannot be mapped")
    _make_root(given)
    program = os.fork()
    if not program:
        _exit_with(given, lambda: _become(given, is_nobody=how == b"2"))
    os.close(given["status"])
    for each in given["keep"]:
        os.close(each)
    return os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]) & 0x7F


def _make_root(given: dict[str, Any]) -> None:
    root = Path(given["root"])
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", str(root), "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    for place, target in given["links"].items():
        link = root / place.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    for place, source in given["files"].items():
        target = root / place.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        _mount(source, str(target), None, _BIND | _REC)
    for each in _mounts_below(str(root)):
        is_device = stat.S_ISCHR(Path(each).stat().st_mode)
        has = os.statvfs(each).f_flag
        kept = sum(flag for known, flag in _KEPT.items() if has & known)
        flags = kept | _RDONLY | _NOSUID | (0 if is_device else _NODEV)
        _mount(None, each, None, _BIND | _REMOUNT | flags)
    (root / "tmp").mkdir()
    _mount(
        "tmpfs",
        str(root / "tmp"),
        "tmpfs",
        _NOSUID | _NODEV | _NOEXEC,
        f"size={given['disk']},nr_inodes={_MAX_FILES},mode=1777",
    )
    _mount(None, str(root), None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV)
    os.chdir(root)
    if _libc.syscall(_MACHINES[platform.machine()]["pivot_root"], b".", b".") != 0:
        _fail("pivot_root")
    if _libc.umount2(b".", _MNT_DETACH) != 0:
        _fail("umount2")
    os.chdir("/tmp")  # noqa: S108  the empty one of the sandbox


def _mounts_below(root: str) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [each for each in places if each.startswith(root + "/")]


def _become(given: dict[str, Any], *, is_nobody: bool) -> int:
    """The first process of the new namespace: it gives up what it may, and becomes the program."""
    os.umask(0o077)
    name = b"sandbox"
    if _libc.sethostname(name, len(name)) != 0:
        _fail("sethostname")
    for capability in range(64):
        if _libc.prctl(_CAPBSET_READ, capability, 0, 0, 0) != 1:
            break
        _prctl(_CAPBSET_DROP, capability)
    for limit, most in (
        (resource.RLIMIT_AS, given["memory"]),
        (resource.RLIMIT_CPU, given["seconds"]),
        (resource.RLIMIT_FSIZE, given["disk"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (least, least))
    if is_nobody:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _prctl(_PDEATHSIG, signal.SIGKILL)
    _prctl(_NO_NEW_PRIVS, 1)
    _filter_calls()
    for each in given["keep"]:
        os.set_inheritable(each, True)
    os.execve(given["command"][0], given["command"], {})  # noqa: S606  no shell
    return 1


def _filter_calls() -> None:
    """Refuse system calls: https://docs.kernel.org/userspace-api/seccomp_filter.html."""
    machine = _MACHINES[platform.machine()]
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_IS, 1, 0, machine["arch"]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call's number
        (_IS_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_IS, 0, 1, _CLONE3),  # its flags cannot be seen; libc then takes clone
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for number in (*machine["uncounted"], *machine["refused"], *_NEWER):
        program += [(_IS, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    program += [
        (_IS, 0, 3, machine["clone"]),
        (_LOAD, 0, 0, 16),  # its flags
        (_HAS, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    whole = struct.pack("HP", len(program), ctypes.addressof(code))
    if _libc.prctl(_SECCOMP, _SECCOMP_FILTER, ctypes.create_string_buffer(whole), 0, 0) != 0:
        _fail("seccomp")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if each is None else os.fsencode(each) for each in (source, target, kind, data)]
    if _libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]) != 0:
        _fail(f"mount {target}")


def _prctl(what: int, value: int) -> None:
    if _libc.prctl(what, ctypes.c_ulong(value), 0, 0, 0) != 0:
        _fail(f"prctl {what}")


def _call(name: str, *args: int) -> None:
    if getattr(_libc, name)(*args) != 0:
        _fail(name)


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise JailError(f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())
