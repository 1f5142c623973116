"""The firmware backend: a plan in; a ready firmware and a C library out."""

from sdk.backends.firmware.build import Emitted, emit

__all__ = ["Emitted", "emit"]
