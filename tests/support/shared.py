"""Where the real checkpoints and data are, when they lie beside the repository."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real checkpoints and data at {SHARED}")
