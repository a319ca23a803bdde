"""Writes a configuration file of tables and lists of tables as TOML; the standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def to_toml(document: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> str:
    """TOML text.

    Args:
        document: by name, a table or a list of tables. Values are texts, paths, numbers, flags or lists of these; keys
            whose value is None are left out.
    """
    lines: list[str] = []
    for name, content in document.items():
        tables, head = ([content], f"[{name}]") if isinstance(content, Mapping) else (content, f"[[{name}]]")
        for table in tables:
            lines += [
                head,
                *(f"{key} = {_value(value)}" for key, value in table.items() if value is not None),
                "",
            ]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)  # a JSON text is a TOML basic string
    if isinstance(value, int | float):
        return repr(value)
    return "[" + ", ".join(_value(item) for item in value) + "]"
