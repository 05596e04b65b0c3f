"""A real browser without a window: what it makes of a page."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser on the PATH: none of {', '.join(_NAMES)}")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def browse(page: Path, *flags: str) -> str:
    """Open a file and return what the browser prints."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def measure(page: Path, width: int, script: str) -> dict[str, Any]:
    """Lay a page out ``width`` CSS pixels wide and evaluate a JavaScript expression with its document as ``d``."""
    holder = page.with_name(f"{page.stem}-{width}.html")
    source = html.escape(page.read_text(encoding="utf-8"), quote=True)
    holder.write_text(
        f'<!doctype html><meta charset="utf-8"><iframe id="f" width="{width}" height="800" srcdoc="{source}"></iframe>'
        '<pre id="found"></pre><script>document.getElementById("f").onload = () => {'
        f' const d = document.getElementById("f").contentDocument; const value = {script};'
        ' document.getElementById("found").textContent = JSON.stringify(value); };</script>',
        encoding="utf-8",
    )
    dom = browse(holder, "--dump-dom", "--virtual-time-budget=10000")
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[:1000]
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result
