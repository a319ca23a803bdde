"""Keys in the standard encrypted keystore (Web3 Secret Storage, version 3)."""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from usufruct.errors import ConfigError

LIGHT_ITERATIONS = 1 << 12
"""scrypt's n for keys of demonstrations and tests; the standard's 2^18 takes about a second."""
STANDARD_ITERATIONS = 1 << 18


def create_key(path: Path | str, passphrase: str, *, light: bool = False) -> LocalAccount:
    """Makes a key from the system's randomness and writes it, encrypted, readable by this user only.

    Args:
        light: a weak key-derivation setting, for keys that guard nothing.
    Raises:
        ConfigError: KEY_INVALID if the file exists (a key is never overwritten) or cannot be written.
    """
    account: LocalAccount = Account.create()
    iterations = LIGHT_ITERATIONS if light else STANDARD_ITERATIONS
    keystore = Account.encrypt(account.key, passphrase, kdf="scrypt", iterations=iterations)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise _invalid(path, "exists already, and a key is never overwritten; choose another name") from error
    except OSError as error:
        raise _invalid(path, f"cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(keystore, file)
        file.flush()
        os.fsync(file.fileno())
    return account


def load_key(
    path: Path | str, passphrase: str | None = None, passphrase_file: Path | str | None = None
) -> LocalAccount:
    """Opens a key file. Asks for the passphrase only at a terminal, and only if neither is given.

    Args:
        passphrase_file: its first line, without the line end, is the passphrase.
    Raises:
        ConfigError: KEY_INVALID naming the file.
    """
    try:
        keystore = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _invalid(path, "is not an encrypted key file") from error
    if passphrase is None:
        passphrase = _passphrase(path, passphrase_file)
    try:
        key = Account.decrypt(keystore, passphrase)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise _invalid(
            path, "does not open: the passphrase is wrong, or the file is not an encrypted key"
        ) from error
    account: LocalAccount = Account.from_key(key)
    return account


def key_address(path: Path | str) -> str | None:
    """The address written in a key file, without opening it; None if it names none."""
    try:
        text = json.loads(Path(path).read_text(encoding="utf-8")).get("address")
        return None if text is None else str(to_checksum_address(text))
    except (OSError, ValueError, AttributeError) as error:
        raise _invalid(path, "cannot be read as a key file") from error


def new_passphrase(path: Path | str, passphrase_file: Path | str | None = None) -> str:
    """The passphrase for a key that is about to be made: from the file, or asked twice at a terminal."""
    passphrase = _passphrase(path, passphrase_file)
    if not passphrase:
        raise _invalid(path, "needs a passphrase that is not empty")
    if passphrase_file is None and getpass.getpass("The same again: ") != passphrase:
        raise _invalid(path, "was not written: the two passphrases differ")
    return passphrase


def _passphrase(path: Path | str, passphrase_file: Path | str | None) -> str:
    if passphrase_file is not None:
        try:
            return Path(passphrase_file).read_text(encoding="utf-8").split("\n", 1)[0].removesuffix("\r")
        except (OSError, ValueError) as error:
            raise _invalid(passphrase_file, "cannot be read as a passphrase file") from error
    if not sys.stdin.isatty():
        raise _invalid(path, "needs a passphrase; name a passphrase file, or run this at a terminal")
    return getpass.getpass(f"Passphrase of {path}: ")


def _invalid(path: Path | str, what: str) -> ConfigError:
    return ConfigError(f"the file {path} {what}", reason="KEY_INVALID", path=str(path))
