"""What ``usufruct holder init`` writes: state directory, TLS identity, keys, a draft of card and configuration."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from usufruct.chain import create_key
from usufruct.errors import ConfigError
from usufruct.wire.tls import TlsIdentity, create_identity
from usufruct_server.holder.card_draft import draft_card


@dataclass(frozen=True)
class Answers:
    """What the person said on the command line; None where nothing was said."""

    name: str
    listen: str
    endpoint: str | None
    rpc_url: str
    compute_access: str | None
    chain_id: int | None
    token: str | None


@dataclass(frozen=True)
class Written:
    """What was made."""

    config: Path
    card: Path
    operator: str
    admin: str
    identity: TlsIdentity


def write_files(
    directory: Path, data: Path | None, answers: Answers, passphrases: tuple[str, str] | None, *, light: bool
) -> Written:
    """Writes everything; refuses where a configuration is there already.

    Args:
        passphrases: of operator and admin key; None makes random ones and keeps them in files of mode 0600.
        light: a weak key-derivation setting, for demonstrations.
    Raises:
        ConfigError: something is there already, or cannot be written. InvalidInput: the data cannot be read.
    """
    config = directory / "holder.toml"
    if config.exists():
        raise ConfigError(f"{config} is there already; init never overwrites. Choose another --directory.")
    card = draft_card(data, answers.name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "state").mkdir(mode=0o700, exist_ok=True)
        (directory / "keys").mkdir(mode=0o700, exist_ok=True)
        identity = create_identity(directory / "state" / "tls")
        addresses = []
        for index, role in enumerate(("operator", "admin")):
            if passphrases is None:
                passphrase = secrets.token_urlsafe(32)
                _write_private(directory / "keys" / f"{role}.passphrase", passphrase + "\n")
            else:
                passphrase = passphrases[index]
            addresses.append(create_key(directory / "keys" / f"{role}.json", passphrase, light=light).address)
        card_path = directory / "card.json"
        _write_new(card_path, json.dumps(card, indent=2) + "\n")
        _write_new(config, _toml(directory, data, answers, with_passphrase_files=passphrases is None))
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written: {error.strerror}.") from error
    return Written(config, card_path, addresses[0], addresses[1], identity)


def _toml(directory: Path, data: Path | None, a: Answers, *, with_passphrase_files: bool) -> str:
    files = (
        'operator_passphrase_file = "keys/operator.passphrase"',
        'admin_passphrase_file = "keys/admin.passphrase"',
    )
    operator_file, admin_file = files if with_passphrase_files else ("# " + files[0], "# " + files[1])
    data_path = os.path.relpath(data.absolute(), directory.absolute()) if data else "data.csv"
    return f"""# The configuration of a Usufruct data holder. Paths are relative to this file.
# Next: fill in card.json and every FILL-IN here, then `usufruct holder register`, `doctor`, `serve`.

[holder]
name = {_text(a.name)}
listen = {_text(a.listen)}                # what the server binds
endpoint = {_text(a.endpoint or a.listen)}              # where builders reach it; registered on chain
state_dir = "state"                       # back it up, and never start an old copy
# witness_dir = "/var/tmp/usufruct-1000"  # says which copy is the newest: outside state_dir, and in no backup

[chain]
rpc_url = {_text(a.rpc_url)}   # several, with spaces between, must agree
compute_access = {_text(a.compute_access or "FILL-IN")}
chain_id = {a.chain_id or '"FILL-IN"'}
# confirmations = 64                      # only for chains without finalized blocks: how far below the newest is final

[keys]
operator = "keys/operator.json"           # hot: signs grants and receipts
{operator_file}
admin = "keys/admin.json"                 # cold: registers; keep it elsewhere afterwards
{admin_file}

[policy]
auto_grant = false                        # true grants at once what is inside the limits
job_kinds = ["training", "evaluation", "statistics"]
noise_modes = ["local", "distributed"]    # the promise of the second rests on other holders too
co_holders = []                           # numbers on chain of holders that you know to be others: only they and you count
                                          # towards min_cohort; without any, only "local" is offered
unknown_builders = "inbox"                # "inbox", "refuse" or "grant"
builders_allow = []
builders_deny = []
max_epsilon_per_job = 3.0
max_rounds = 200                          # attempts, spare ones included
grant_term_seconds = 604800
arbiters = []                             # addresses that may decide disputes; [] accepts only jobs without one
longest_challenge_seconds = 604800        # longest time for disputes after delivery

[[datasets]]
card = "card.json"
data = {_text(data_path)}
price_units = 1000000                     # in the token's smallest unit
token = {_text(a.token or "FILL-IN")}
min_cohort = 3                            # least holders in a sum, of you and co_holders; 1 grants to anybody's job
order = 6                                 # Renyi order of the lifetime budget: 6 for about 3, 16 for about 1
budget_epsilon = 10.0                     # of all jobs together, at budget_delta; can never be raised
budget_delta = 1e-5
"""


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _write_new(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
