"""Random subnets on the emulated board: the arena that was planned beside the bytes that an inference touches.

    python -m benchmarks.moofa_boards [--json] [--ladder small-moofa] [--device stm32f746] [--count 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks.rows import Row, table, to_json
from sdk.prepare.moofa.graphs import subnet_graph
from sdk.prepare.moofa.ladders import LADDERS
from sdk.prepare.moofa.space import Ladder, Subnet, sample

if TYPE_CHECKING:
    from sdk.artifact import Artifact

CLASSES = 10


def board_rows(ladder: Ladder, count: int, seed: int, device: str = "stm32f746") -> list[Row]:
    """`arena_bytes`, as planned, and `observed_arena_bytes` of `count` random subnets, two rows each."""
    return [row for rows in each(ladder, count, seed, device) for row in rows]


def each(ladder: Ladder, count: int, seed: int, device: str) -> Iterator[list[Row]]:
    """The rows of one subnet after another."""
    random = Random(seed)
    for index in range(count):
        planned, observed = measure(ladder, sample(ladder, random), device)
        case = f"{ladder.name}@{device}/{index}"
        yield [Row(case, "arena_bytes", planned, "bytes", "lower"), Row(case, "observed_arena_bytes", observed, "bytes", "lower")]


def measure(ladder: Ladder, subnet: Subnet, device: str) -> tuple[int, int]:
    """(bytes planned, bytes from the arena's start up to the highest that one inference touches), over all regions."""
    import sdk

    plan: Any = sdk.plan(device, subnet_graph(ladder, subnet, CLASSES))
    return sum(plan.arena_bytes), sum(observed_arena(sdk.compile(plan)))


def observed_arena(artifact: Artifact) -> tuple[int, ...]:
    """For each arena region, the bytes that an inference reads or writes, counted from the region's start."""
    from firmware_bridge.emulator import EmulatedBoard, EmulatorLink
    from sdk.session import BoardSession, Session

    board = EmulatedBoard(artifact.device, artifact.elf(), watch=True)
    with Session(artifact, BoardSession(EmulatorLink(board)), board) as session:
        session.run(*artifact.golden.inputs[0])
        return board.arena_peak_bytes()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moofa_boards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--ladder", default="small-moofa", choices=sorted(LADDERS), help="default %(default)s")
    parser.add_argument("--device", default="stm32f746", help="default %(default)s")
    parser.add_argument("--count", type=int, default=20, help="subnets (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random subnets (default %(default)s)")
    args = parser.parse_args()
    rows: list[Row] = []
    for two in each(LADDERS[args.ladder], args.count, args.seed, args.device):
        rows += two
        if sys.stderr.isatty():
            sys.stderr.write(f"{two[0].case}: planned {two[0].value:,}, observed {two[1].value:,}\n")
    print(to_json(rows) if args.json else table(rows))


if __name__ == "__main__":
    main()
