"""Checkpoint -> bundle: reading, the fp32 reference, graphs, passes, builders, parity, timing, choice, report.

Must not know serving.
"""
