"""Which C kernel computes each node on a microcontroller, with what constants and how much memory."""

from sdk.kernels.base import Call, Ref
from sdk.kernels.table import lower

__all__ = ["Call", "Ref", "lower"]
