"""Tries in every way to run another program, and prints what comes of each."""

import ctypes
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(__file__))
from calls import NUMBERS, libc  # noqa: E402
import platform  # noqa: E402


def outcome(what, attempt):
    try:
        print(what, attempt(), flush=True)
    except OSError as error:
        print(what, error.errno, flush=True)


def thread():
    seen = []
    one = threading.Thread(target=lambda: seen.append(1))
    one.start()
    one.join()
    return len(seen)


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def execveat(sixth):
    """Of /bin/true, at each number that the launch's fd may have had."""
    number = NUMBERS["execveat"][platform.machine() != "x86_64"]
    file = os.open("/bin/true", os.O_RDONLY | os.O_CLOEXEC)
    argv = (ctypes.c_char_p * 2)(b"true", None)
    envp = (ctypes.c_char_p * 1)(None)
    for fd in range(3, 64):
        if fd != file:
            os.dup2(file, fd)
        libc.syscall(
            ctypes.c_long(number), ctypes.c_long(fd), b"", argv, envp, ctypes.c_long(0x1000),
            ctypes.c_ulong(sixth),
        )
    return ctypes.get_errno()


outcome("thread", thread)
outcome("fork", fork)
outcome("spawn", lambda: subprocess.run(["/bin/true"]).returncode)
if "--exec" in sys.argv:
    outcome("execve", lambda: os.execv("/bin/true", ["true"]))
    outcome("execveat", lambda: execveat(0))
    outcome("execveat", lambda: execveat(2**64 - 1))
