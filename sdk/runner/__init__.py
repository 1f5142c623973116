"""The device's side of a Linux artifact: opens it, proves it, runs it, measures it. Needs numpy and the engine, nothing else.

This package imports nothing of embarq, so that it travels as one file (`embarq-run.pyz`) and runs on Python 3.9 or newer.
"""
