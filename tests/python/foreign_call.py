"""Makes getpid by an ABI that is not the machine's own, and prints what it returned.

    int80    the 32-bit entry of an x86_64 kernel; its table has getpid at 20, where the 64-bit one has writev
    x32      the 64-bit entry with bit 30 of the number set; a kernel without x32 answers ENOSYS
"""

import ctypes
import mmap
import sys

X32_GETPID = 0x40000000 + 39
# mov eax, 20; int 0x80; ret
INT80_GETPID = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"

if sys.argv[1] == "x32":
    print(ctypes.CDLL(None).syscall(X32_GETPID), flush=True)
else:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(INT80_GETPID)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    print(ctypes.CFUNCTYPE(ctypes.c_int)(address)(), flush=True)
