"""Makes getpid by the 32-bit entry of an x86_64 kernel, and prints what it returned.

The number is the 32-bit table's: 20 there is getpid, 20 in the 64-bit table is writev.
"""

import ctypes
import mmap

# mov eax, 20; int 0x80; ret
CODE = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"

page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(CODE)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)(), flush=True)
