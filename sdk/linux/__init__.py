"""Models on Linux devices: `plan` keeps the recipes that can work, `compile` builds, measures and chooses among them."""

from sdk.linux.choose import compile_linux
from sdk.linux.plan import plan_linux

__all__ = ["compile_linux", "plan_linux"]
