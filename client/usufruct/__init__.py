"""Usufruct: train on data that never leave their holders.

``import usufruct as uf`` gives the builder's surface (``uf.connect``, ``uf.Privacy``, ``uf.SGD``, ``uf.Encryption``,
``uf.Evaluation``, ``uf.ServerAdam``, ``uf.suggest``, ``uf.resume``, ``uf.lora``, ``uf.tokenize``). The names are looked up when they are used, so that
importing the package loads neither torch nor the chain.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usufruct.builder import SGD as SGD
    from usufruct.builder import Encryption as Encryption
    from usufruct.builder import Evaluation as Evaluation
    from usufruct.builder import Privacy as Privacy
    from usufruct.builder import Schedule as Schedule
    from usufruct.builder import ServerAdam as ServerAdam
    from usufruct.builder import ServerSGD as ServerSGD
    from usufruct.builder import ServerYogi as ServerYogi
    from usufruct.builder import Statistics as Statistics
    from usufruct.builder import connect as connect
    from usufruct.builder import resume as resume
    from usufruct.builder import save_base_model as save_base_model
    from usufruct.builder import suggest as suggest
    from usufruct.domain.tokens import tokenize as tokenize
    from usufruct.errors import UsufructError as UsufructError
    from usufruct.graph import adapters as adapters
    from usufruct.graph import lora as lora
    from usufruct.graph import merged as merged

# gRPC reads these once, when it is imported. The list governs TLS 1.2 and below only; with suites that only RSA
# keys can use, our ECDSA keys speak TLS 1.3 or nothing (usufruct/wire/tls.py proves it in every server).
os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

__version__ = "0.1.0"
__all__ = [
    "SGD",
    "Encryption",
    "Evaluation",
    "Privacy",
    "Schedule",
    "ServerAdam",
    "ServerSGD",
    "ServerYogi",
    "Statistics",
    "UsufructError",
    "__version__",
    "adapters",
    "connect",
    "lora",
    "merged",
    "resume",
    "save_base_model",
    "suggest",
    "tokenize",
]

_HOMES = {
    "SGD": "usufruct.builder",
    "Encryption": "usufruct.builder",
    "Evaluation": "usufruct.builder",
    "Privacy": "usufruct.builder",
    "Schedule": "usufruct.builder",
    "ServerAdam": "usufruct.builder",
    "ServerSGD": "usufruct.builder",
    "ServerYogi": "usufruct.builder",
    "Statistics": "usufruct.builder",
    "connect": "usufruct.builder",
    "resume": "usufruct.builder",
    "save_base_model": "usufruct.builder",
    "suggest": "usufruct.builder",
    "tokenize": "usufruct.domain.tokens",
    "adapters": "usufruct.graph",
    "lora": "usufruct.graph",
    "merged": "usufruct.graph",
    "UsufructError": "usufruct.errors",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'usufruct' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
