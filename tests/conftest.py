"""For all tests: usufruct is loaded before gRPC, which it tells to speak TLS 1.3 only."""

import usufruct  # noqa: F401
