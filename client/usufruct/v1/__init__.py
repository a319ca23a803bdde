"""Generated from protos/usufruct/v1; never edited. `make protos` writes it, `make check` compares it."""
