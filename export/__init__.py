"""Checkpoint -> bundle: reading, the fp32 reference, graphs, passes, builders, parity, timing, choice, report.

Must not know serving.
"""

import os

# OpenMP's threads spin for milliseconds at barriers and after the last one. That takes the core from whatever is timed
# next, and where cores are shared it makes PyTorch up to fifty times slower than it need be. So many turns still bridge
# the gap between two operators. It counts only where it is set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
