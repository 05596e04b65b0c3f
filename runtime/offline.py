"""Keeps the runtimes from reporting to their makers: a server of other people's texts opens no connection of its own.

ONNX Runtime (1.32 on Linux) sends events and writes a device id under ``~/.cache`` unless told otherwise before it is
imported (its Privacy.md, "Disabling Telemetry"). OpenVINO reports its very import unless the package that does so can't
be imported; it has a stub for that case.
"""

from __future__ import annotations

import os
import sys


def keep_offline() -> None:
    """Switch both off, unless the caller has decided already by the variable or by an import of their own."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
