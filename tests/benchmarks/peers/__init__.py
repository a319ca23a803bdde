"""Other frameworks' rounds, each in a virtual environment of its own, for ``make bench-round ARGS=--peers``."""
