"""Types into its own terminal, and makes a ring; prints the errno of each, 0 where it was let."""

import ctypes
import fcntl
import os
import termios

IO_URING_SETUP = 425

os.setsid()
_, terminal = os.openpty()
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
try:
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
    print("type", 0)
except OSError as error:
    print("type", error.errno)

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(IO_URING_SETUP, 1, None)
# EFAULT (14) where it is let: there are no parameters to read.
print("ring", ctypes.get_errno())
