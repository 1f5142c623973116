"""A board to test against without a board: the bridge's C half and a small model, compiled for this computer."""
