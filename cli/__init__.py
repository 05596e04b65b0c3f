"""Flags, exit codes, progress, tables; one file a command, heavy imports inside them.

Must not hold algorithms.
"""
