"""Measurements on this machine: ``python -m benchmarks.run`` and ``python -m benchmarks.soak``. No part of CI."""
