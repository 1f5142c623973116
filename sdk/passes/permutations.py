"""Permutations of dimensions, and how reshapes split and join them.

A permutation is a transpose's `perm`: dimension i of the result is dimension `perm[i]` of the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdk.graph.ir import Tensor

Perm = tuple[int, ...]
Shape = tuple[int, ...]


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(sorted(range(len(perm)), key=lambda i: perm[i]))


def compose(first: Perm, second: Perm) -> Perm:
    """One transpose instead of two: `first`, then `second`."""
    return tuple(first[i] for i in second)


def apply(perm: Perm, values: Sequence) -> tuple:
    """`values`, one per dimension, in the new order."""
    return tuple(values[p] for p in perm)


def is_free(shape: Shape, perm: Perm) -> bool:
    """True when only dimensions of size 1 change places, so that the values stay where they are."""
    moved = [p for p in perm if shape[p] != 1]
    return moved == sorted(moved)


def cost(tensor: Tensor, perm: Perm) -> int:
    """Bytes a transpose of `tensor` copies, 0 for one that moves nothing."""
    if perm == tuple(range(len(perm))):
        return 0
    return 1 if is_free(tensor.shape, perm) else tensor.size_bytes + 1


def groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """What a reshape does, as the smallest groups of dimensions that become one another: (2, 12) -> (2, 3, 4) gives
    [([0], [0]), ([1], [1, 2])]. Dimensions of size 1 that appear or vanish stand alone, with an empty other side."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and before[i] == 1 and not (j < len(after) and after[j] == 1):
            found.append(([i], []))
            i += 1
        elif j < len(after) and after[j] == 1 and not (i < len(before) and before[i] == 1):
            found.append(([], [j]))
            j += 1
        else:
            left, right = [i], [j]
            i, j = i + 1, j + 1
            while (a := math.prod(before[k] for k in left)) != (b := math.prod(after[k] for k in right)):
                if a < b:
                    left.append(i)
                    i += 1
                else:
                    right.append(j)
                    j += 1
            found.append((left, right))
    return found


def through_reshape(before: Shape, after: Shape, perm: Perm) -> tuple[Shape, Perm] | None:
    """reshape(transpose(x, perm)) as transpose(reshape(x, shape), new): `(shape, new)`; None where a group is torn apart.

    before: the shape between the two, after: the final one.
    """
    kept = groups(before, after)
    placed: list[tuple[float, list[int]]] = []  # position in x, dimensions of the result
    last = -1.0
    for left, right in kept:
        places = [perm[d] for d in left]
        if places and places != list(range(places[0], places[0] + len(places))):
            return None
        last = float(places[0]) if places else last + 1e-3
        if right:
            placed.append((last, right))
    order = [d for _, dims in sorted(placed, key=lambda p: p[0]) for d in dims]
    return tuple(after[d] for d in order), tuple(order.index(d) for d in range(len(after)))


def through_reshape_up(before: Shape, after: Shape, perm: Perm) -> tuple[Perm, Shape] | None:
    """transpose(reshape(x), perm) as reshape(transpose(x, new), shape): `(new, shape)`; None where a group is torn apart.

    before: the shape of x, after: the reshape's result.
    """
    placed: list[tuple[float, list[int]]] = []
    where, last = inverse(perm), -1.0
    for left, right in groups(before, after):
        places = [where[d] for d in right]
        if places and places != list(range(places[0], places[0] + len(places))):
            return None
        last = float(places[0]) if places else last + 1e-3
        if left:
            placed.append((last, left))
    new = tuple(d for _, dims in sorted(placed, key=lambda p: p[0]) for d in dims)
    return new, apply(perm, after)
