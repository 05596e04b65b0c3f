"""``python -m nlpdeploy.cli``: the console script where its folder is not on the path."""

from .main import entry_point

entry_point()
