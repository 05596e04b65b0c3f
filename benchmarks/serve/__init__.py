"""The serving benchmark: our front, its peers, the bare engine and the bare transport under one load client."""
