"""What subnets cost on a device: the pieces' sums against the plan of the whole, and both against the plan of a real torch net."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from sdk.errors import DoesNotFit, UsageError
from sdk.prepare.moofa.cost import Costs, Pieces, SubnetCost
from sdk.prepare.moofa.graphs import subnet_graph
from sdk.prepare.moofa.ladders import LADDERS, MOOFA, SMALL_DEVICE, SMALL_FLASH_BYTES, SMALL_MOOFA, SMALL_OFA, SMALL_RAM_BYTES
from sdk.prepare.moofa.space import Subnet, largest, sample, smallest, uniform
from sdk.prepare.moofa.widths import widths


def test_the_rule_gives_the_shipped_ladder():
    solved = widths(SMALL_DEVICE, 32, like=SMALL_OFA, ram_bytes=SMALL_RAM_BYTES, flash_bytes=SMALL_FLASH_BYTES, name=SMALL_MOOFA.name)
    assert solved == SMALL_MOOFA
