"""The CPU's memory allocator, brought to a known state before anything is timed."""

from __future__ import annotations

import ctypes
import platform

LARGEST_KEPT = 32 * 2**20
"""Bytes; glibc's own limit for what it raises the threshold of mapped blocks to."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks, as it comes to do by itself in a process that has freed a block of 32 MiB.

    A young process returns large blocks to the system at once and takes them back page by page: that can cost more
    than the arithmetic (MobileNetV2 takes 25 ms or 18 ms by it) and depends on everything that ran before. Other
    allocators are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    allocator = ctypes.CDLL(None)
    allocator.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    allocator.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT)
