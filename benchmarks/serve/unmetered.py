"""``nlpdeploy`` with counters and histograms that note nothing: what the metrics cost is the difference."""

from __future__ import annotations

import sys

import prometheus_client

from nlpdeploy.cli.main import main


def _nothing(*_: object, **__: object) -> None:
    """In place of counting."""


if __name__ == "__main__":
    prometheus_client.Counter.inc = _nothing
    prometheus_client.Histogram.observe = _nothing
    sys.exit(main())
