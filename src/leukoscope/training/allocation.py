"""Memory that one step of training gives back is kept for the next.

By its defaults glibc hands every large block back to Linux as soon as it is free, and Linux fills it with zeros, page
by page, when the next step asks for it: half to two thirds of a step on two cores. Other systems are left as they are.
"""

import ctypes
import platform

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


def keep_memory() -> None:
    """Let this process keep freed memory until it ends; its peak stays what it is."""
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_MAX, 0)
        allocator.mallopt(_TRIM_THRESHOLD, _NEVER)
