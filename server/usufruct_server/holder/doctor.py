"""Looks at everything a holder needs, one line each: fine, or what is wrong and what to do."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eth_account.signers.local import LocalAccount

from usufruct.chain import Chain
from usufruct.errors import ConfigError, UsufructError
from usufruct.wire.tls import TlsIdentity, fingerprint_text, load_identity
from usufruct_server.holder.base_models import BaseModels
from usufruct_server.holder.catalogue import load_card, load_catalogue
from usufruct_server.holder.config import HolderConfig
from usufruct_server.holder.data_check import look_at_data
from usufruct_server.holder.fencing import CLOCK_SECONDS, require_clock, require_history
from usufruct_server.holder.ledger import LedgerReader
from usufruct_server.holder.opening import (
    known_registration,
    open_admin,
    open_chain,
    open_operator,
    registration_problems,
)
from usufruct_server.holder.tokenizer_folder import TokenizerFolder
from usufruct_server.holder.training.zygote import Zygote

DISK_BYTES = 1 << 30
GAS_IN_HAND = 2_000_000
"""About what four deliveries and four usage batches take."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    check: str
    ok: bool
    text: str


class Doctor:
    """Runs the checks in an order in which each may use what the ones before have opened.

    Args:
        zygote: forks the child that looks at data; None: one of its own for each dataset.
    """

    def __init__(self, config: HolderConfig, zygote: Zygote | None = None) -> None:
        self.config, self._zygote = config, zygote
        self._chain: Chain | None = None
        self._operator: LocalAccount | None = None
        self._identity: TlsIdentity | None = None

    def findings(self) -> Iterator[Finding]:
        """Every check, as it is done. None raises."""
        checks: list[tuple[str, Callable[[], str]]] = [
            ("operator key", self._operator_key),
            ("admin key", self._admin_key),
            ("TLS", self._tls),
            ("chain", self._reach_chain),
            ("clock", self._clock),
            ("balance", self._balance),
            ("disk", self._disk),
            ("ledger", self._ledger),
        ]
        for entry in self.config.datasets:
            checks.append((f"card {entry.card.name}", partial(self._card, entry.card)))
            checks.append((f"data {entry.data.name}", partial(self._data, entry.card, entry.data)))
        checks.append(("cohorts", self._cohorts))
        checks.append(("base models", self._base_models))
        checks.append(("registration", self._registration))
        checks.append(("history", self._history))
        for name, check in checks:
            try:
                yield Finding(name, True, check())
            except UsufructError as error:
                yield Finding(name, False, error.message)
            except OSError as error:
                yield Finding(name, False, f"{error.filename or name}: {error.strerror}.")

    # -- the checks: each returns what is fine, or raises what is wrong ---------------------------------------------

    def _operator_key(self) -> str:
        _private(self.config.keys.operator_passphrase_file)
        self._operator = open_operator(self.config)
        return f"{self._operator.address} opens"

    def _admin_key(self) -> str:
        if self.config.keys.admin is None or not self.config.keys.admin.exists():
            return "not here; it is needed for `register` only"
        if self.config.keys.admin_passphrase_file is None:
            return "here; its passphrase is asked for when it is needed"
        _private(self.config.keys.admin_passphrase_file)
        return f"{open_admin(self.config).address} opens; keep it elsewhere once you have registered"

    def _tls(self) -> str:
        self._identity = load_identity(self.config.tls_dir)
        return fingerprint_text(self._identity.fingerprint)

    def _reach_chain(self) -> str:
        self._chain = open_chain(self.config)
        return f"chain {self._chain.chain_id}, final block {self._chain.final_block()[0]}"

    def _clock(self) -> str:
        chain = self._opened_chain()
        behind_seconds = chain.rpc.newest().time_seconds - int(time.time())
        if behind_seconds > CLOCK_SECONDS:
            raise ConfigError(
                f"This machine's clock is at least {behind_seconds} s behind the chain; set it (NTP), or grants expire wrongly."
            )
        return "not behind the chain's newest block"

    def _balance(self) -> str:
        chain = self._opened_chain()
        if self._operator is None:
            raise ConfigError("The operator key does not open, so its balance is not known.")
        address = self._operator.address
        wei = chain.rpc.balance_wei(address)
        need = GAS_IN_HAND * chain.rpc.gas_price_wei()
        if wei < need:
            raise ConfigError(f"The operator {address} has {wei} wei; send it at least {need} for gas.")
        return f"the operator has {wei} wei, enough for gas"

    def _base_models(self) -> str:
        return f"{BaseModels(self.config.base_models).check()} here, whole"

    def _disk(self) -> str:
        folder = self.config.state_dir
        if not folder.is_dir():
            raise ConfigError(
                f"{folder} is not there; run `usufruct holder init`, or set [holder] state_dir."
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder} cannot be written by this user; change its owner.")
        free = shutil.disk_usage(folder).free
        if free < DISK_BYTES:
            raise ConfigError(
                f"{folder} has {free >> 20} MiB left; the ledger stops when the disk is full. Make room."
            )
        return f"{free >> 30} GiB free in {folder.name}"

    def _ledger(self) -> str:
        if not self.config.ledger_path.exists():
            return "none yet; the first `serve` makes it"
        with LedgerReader(self.config.ledger_path) as ledger:
            return f"{ledger.head()[0]} rows, all verified"

    def _card(self, path: Path) -> str:
        card = load_card(path)
        return f"{card.card.name}: {len(card.card.columns)} columns, hash 0x{card.hash.hex()}"

    def _data(self, card: Path, data: Path) -> str:
        try:
            finished = load_card(card)
        except ConfigError as error:
            raise ConfigError(f"Cannot be looked at before the card {card.name} is right.") from error
        with nullcontext(self._zygote) if self._zygote else closing(Zygote()) as zygote:
            finding = look_at_data(zygote, finished.card, data, TokenizerFolder(self.config.tokenizers_dir))
        if finding.reason:
            raise ConfigError(finding.message)
        return "readable as the card describes it"

    def _cohorts(self) -> str:
        others = set(self.config.policy.co_holders)
        with suppress(ConfigError):  # who is not registered has no number that could be listed
            others.discard(known_registration(self.config).holder_id)
        countable = 1 + len(others)
        least = max((entry.min_cohort for entry in self.config.datasets), default=1)
        if least > countable:
            raise ConfigError(
                f"min_cohort is {least}, and at most {countable} can count: this holder and those in [policy] co_holders. Every "
                "job is refused until you name there the numbers on chain of others that you know, or lower min_cohort."
            )
        return f"{countable} holders can count, and {least} must"

    def _registration(self) -> str:
        chain, registration = self._opened_chain(), known_registration(self.config)
        catalogue = load_catalogue(self.config, registration)
        if self._operator is None or self._identity is None:
            raise ConfigError(
                "The operator key or the TLS key does not open, so the registration cannot be compared."
            )
        problems = registration_problems(
            self.config, chain, registration, catalogue, self._operator.address, self._identity.fingerprint
        )
        if problems:
            raise ConfigError(" ".join(problems))
        return f"holder {registration.holder_id}, datasets {[d.dataset_id for d in catalogue.all()]}, as on chain"

    def _history(self) -> str:
        chain, holder_id = self._opened_chain(), known_registration(self.config).holder_id
        entry = chain.holder(holder_id)
        if not self.config.ledger_path.exists():
            if entry.fencing_epoch:
                raise ConfigError(
                    f"There is no {self.config.ledger_path.name}, and a server of this holder has run before: put the newest "
                    "copy of the state directory back."
                )
            return "no server of this holder has run yet"
        with LedgerReader(self.config.ledger_path) as ledger:
            require_history(chain, entry, ledger)
            require_clock(ledger, time.time())
        return f"the ledger has all that the chain has seen of it; fencing epoch {entry.fencing_epoch}"

    def _opened_chain(self) -> Chain:
        if self._chain is None:
            raise ConfigError("The chain cannot be asked; see the check `chain`.")
        return self._chain


def _private(path: Path | None) -> None:
    if path is not None and os.path.exists(path) and os.stat(path).st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others; run `chmod 600 {path}`.")
