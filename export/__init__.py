"""Checkpoint -> bundle: reading, the fp32 reference, graphs, passes, builders, parity, timing, choice, report.

Must not know serving.
"""

import os

# OpenMP's threads spin at barriers by default. Where cores are shared, that makes PyTorch up to fifty times slower than
# it need be, and every speed-up against it a false one. It counts only where it is set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
