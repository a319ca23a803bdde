"""Usufruct: train on data that never leave their holders.

``import usufruct as uf`` gives the builder's surface (``uf.connect``, ``uf.Privacy``, ``uf.SGD``, ``uf.resume``).
The names are looked up when they are used, so that importing the package loads neither torch nor the chain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usufruct.builder import SGD as SGD
    from usufruct.builder import Privacy as Privacy
    from usufruct.builder import connect as connect
    from usufruct.builder import resume as resume
    from usufruct.errors import UsufructError as UsufructError

__version__ = "0.1.0"
__all__ = ["SGD", "Privacy", "UsufructError", "__version__", "connect", "resume"]

_HOMES = {
    "SGD": "usufruct.builder",
    "Privacy": "usufruct.builder",
    "connect": "usufruct.builder",
    "resume": "usufruct.builder",
    "UsufructError": "usufruct.errors",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'usufruct' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
