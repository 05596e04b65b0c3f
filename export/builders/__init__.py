"""One file for each engine family: graph -> engine files."""
