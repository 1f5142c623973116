"""The session between a host and a board: links that carry bytes, SMP over them, and the emulated board.

PROTOCOL.md beside this file states every message; `device/` holds the board's half in C.
"""
