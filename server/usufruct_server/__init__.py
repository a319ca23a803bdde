"""The servers of Usufruct: the data holder's, the aggregator's, and a whole network on one machine for trying it out."""

import usufruct as _usufruct  # noqa: F401  before gRPC is loaded: it tells gRPC to speak TLS 1.3 only (wire/tls.py)
