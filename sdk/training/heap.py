"""A heap that gives large tensors' pages back the moment they are freed.

glibc keeps freed blocks of up to 32 MiB for the next who asks, in a heap that tensors of many sizes cut to pieces: a training process was
measured to hold up to twice what its tensors take. With a fixed threshold every larger block is a mapping of its own, gone when freed.
The price is time: each new tensor's pages come zeroed from the kernel.
"""

from __future__ import annotations

#: Blocks of this size and more are mappings of their own.
THRESHOLD_BYTES = 128 << 10
_M_MMAP_THRESHOLD = -3


def keep_tight() -> bool:
    """From now on, large blocks are given back when freed; False where the C library is none that can."""
    import ctypes

    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, THRESHOLD_BYTES))
    except (AttributeError, OSError):
        return False
