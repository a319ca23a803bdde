"""Reads a TOML file key by key, and names file, line and key when something is wrong.

``tomllib`` gives the line of a syntax error only; for a wrong key or value the line is found by scanning the text for
the table and the key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from usufruct.errors import ConfigError

_HEADER = re.compile(r"^\s*(\[\[?)\s*([A-Za-z0-9_\-.\"' ]+?)\s*\]\]?\s*(#.*)?$")
_SYNTAX_LINE = re.compile(r"at line (\d+)")
_MISSING = object()


class TomlFile:
    """One parsed file. Tables are read through :class:`Table`, which remembers what was asked for."""

    def __init__(self, path: Path, made_by: str = "") -> None:
        """Parses the file.

        Args:
            made_by: what to say when it is not there, such as "`usufruct holder init` makes one".
        Raises:
            ConfigError: it is not there, cannot be read, or is not TOML (with the line).
        """
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: there is no such file{made_by and '; ' + made_by}.", file=str(path)
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({type(error).__name__}).", file=str(path)) from error
        try:
            self.raw: dict[str, Any] = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            found = _SYNTAX_LINE.search(str(error))
            line = int(found.group(1)) if found else max(1, self.text.count("\n"))
            raise ConfigError(f"{path}:{line}: not valid TOML: {error}", file=str(path), line=line) from error

    def table(self, name: str, *, required: bool = True) -> Table:
        """The table ``[name]``; empty when it is absent and not required."""
        value = self.raw.get(name, _MISSING)
        if value is _MISSING:
            if required:
                raise ConfigError(
                    f"{self.path}:1: the table [{name}] is missing.", file=str(self.path), line=1, key=name
                )
            value = {}
        if not isinstance(value, dict):
            raise self.error(name, None, 0, f"must be a table, written as [{name}]")
        return Table(self, name, 0, value)

    def tables(self, name: str) -> list[Table]:
        """The tables ``[[name]]``, in order."""
        value = self.raw.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(name, None, 0, f"must be a list of tables, each written as [[{name}]]")
        return [Table(self, name, index, item) for index, item in enumerate(value)]

    def only(self, names: Iterable[str]) -> None:
        """Refuses top-level keys other than ``names``."""
        allowed = list(names)
        for name in self.raw:
            if name not in allowed:
                raise self.error(name, None, 0, f"is not known here; use one of: {', '.join(allowed)}")

    def error(self, table: str, key: str | None, index: int, problem: str) -> ConfigError:
        """An error that names file, line and key."""
        line = line_of(self.text, table, key, index)
        named = f"[{table}] {key}" if key else table
        return ConfigError(
            f"{self.path}:{line}: {named} {problem}.",
            file=str(self.path),
            line=line,
            key=key or table,
            field=named,
        )


class Table:
    """One table of the file. Every reading method raises :class:`ConfigError` naming file, line and key."""

    def __init__(self, file: TomlFile, name: str, index: int, raw: dict[str, Any]) -> None:
        self.file, self.name, self.index, self.raw = file, name, index, raw
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        self._known.append(key)
        return key in self.raw

    def error(self, key: str, problem: str) -> ConfigError:
        """An error about one key."""
        return self.file.error(self.name, key, self.index, problem)

    def value(self, key: str, default: Any = _MISSING) -> Any:
        """The raw value."""
        self._known.append(key)
        if key in self.raw:
            return self.raw[key]
        if default is _MISSING:
            raise self.error(key, "is missing")
        return default

    def text(self, key: str, default: Any = _MISSING, *, longest: int = 1000) -> Any:
        """Text, not empty."""
        value = self.value(key, default)
        if value is default:
            return value
        if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
            raise self.error(key, f"must be text of 1 to {longest} characters, in quotes")
        return value

    def whole(self, key: str, default: Any = _MISSING, *, least: int = 0, most: int = 2**63 - 1) -> Any:
        """A whole number; large ones may be written as text."""
        value = self.value(key, default)
        if value is default:
            return value
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,40}", value):
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise self.error(key, f"must be a whole number from {least} to {most}")
        return value

    def real(self, key: str, default: Any = _MISSING, *, above: float, most: float) -> Any:
        """A number in ``(above, most]``."""
        value = self.value(key, default)
        if value is default:
            return value
        if type(value) not in (int, float) or not above < value <= most:
            raise self.error(key, f"must be a number above {above:g} and at most {most:g}")
        return float(value)

    def flag(self, key: str, default: Any = _MISSING) -> Any:
        """true or false."""
        value = self.value(key, default)
        if type(value) is not bool:
            raise self.error(key, "must be true or false")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: Any = _MISSING) -> Any:
        """One of ``choices``."""
        value = self.value(key, default)
        if value not in choices:
            raise self.error(key, "must be one of: " + ", ".join(f'"{c}"' for c in choices))
        return value

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of texts."""
        value = self.value(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, 'must be a list of texts, such as ["one", "two"]')
        return tuple(value)

    def location(self, key: str, default: Any = _MISSING) -> Any:
        """A path; relative ones are relative to the file."""
        value = self.text(key, default)
        return value if value is default else (self.file.path.parent / value).absolute()

    def only_known(self) -> None:
        """Refuses keys that nobody asked for."""
        for key in self.raw:
            if key not in self._known:
                raise self.error(
                    key, f"is not known here; known are: {', '.join(dict.fromkeys(self._known))}"
                )


def line_of(text: str, table: str, key: str | None, index: int = 0) -> int:
    """Line number, from 1, of ``key`` in the ``index``-th table of that name; of the table if the key is not there."""
    seen, here, header_line = -1, False, 1
    inside_text = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if inside_text:  # a multi-line text: nothing in it is a key
            if inside_text in line:
                inside_text = ""
            continue
        header = _HEADER.match(line)
        if header:
            if here:
                break
            if header.group(2).strip("\"' ") == table:
                seen += 1
                here, header_line = seen == index, number if seen == index else header_line
                if here and key is None:
                    return number
        elif (here and key is not None and re.match(rf"^\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line)) or (
            seen < 0 and re.match(rf"^\s*[\"']?{re.escape(table)}[\"']?\s*[=.]", line)
        ):
            return number
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                inside_text = quotes
    return header_line
