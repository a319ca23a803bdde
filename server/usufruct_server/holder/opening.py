"""Opens what the holder's commands need: chain, keys; and compares the registration on chain with this holder."""

from __future__ import annotations

from dataclasses import fields

from eth_account.signers.local import LocalAccount

from usufruct.chain import Chain, DatasetTerms, load_key
from usufruct.errors import ChainError, ConfigError
from usufruct.wire.tls import fingerprint_text
from usufruct_server.holder.catalogue import Catalogue
from usufruct_server.holder.config import HolderConfig
from usufruct_server.holder.registration import Registration, read_registration


def open_chain(config: HolderConfig) -> Chain:
    """Connects to the chain of the configuration.

    Raises:
        ChainError: CHAIN_UNREACHABLE, WRONG_CHAIN. ConfigError: the node is of another chain than ``chain_id``.
    """
    wanted = config.chain
    chain = Chain.connect(wanted.rpc_url, wanted.compute_access, confirmations=wanted.confirmations)
    if chain.chain_id != wanted.chain_id:
        raise ConfigError(
            f"{config.path}: [chain] chain_id is {wanted.chain_id}, and the node at rpc_url is of chain {chain.chain_id}.",
            reason="WRONG_CHAIN",
            chain_id=chain.chain_id,
        )
    return chain


def open_operator(config: HolderConfig) -> LocalAccount:
    """The operator key. Raises :class:`ConfigError` KEY_INVALID."""
    return load_key(config.keys.operator, passphrase_file=config.keys.operator_passphrase_file)


def open_admin(config: HolderConfig) -> LocalAccount:
    """The admin key. Raises :class:`ConfigError`, also where the configuration names none."""
    if config.keys.admin is None:
        raise ConfigError(
            f"{config.path}: [keys] admin is missing; registering needs the admin key.", reason="KEY_INVALID"
        )
    return load_key(config.keys.admin, passphrase_file=config.keys.admin_passphrase_file)


def known_registration(config: HolderConfig) -> Registration:
    """What ``register`` wrote. Raises :class:`ConfigError` when there is nothing yet."""
    found = read_registration(config.registration_path, config.chain.chain_id, config.chain.compute_access)
    if found is None:
        raise ConfigError("This holder is not registered on chain yet; run `usufruct holder register`.")
    return found


def registration_problems(
    config: HolderConfig,
    chain: Chain,
    registration: Registration,
    catalogue: Catalogue,
    operator: str,
    fingerprint: bytes,
) -> list[str]:
    """Where the chain says something else than this holder; each a sentence with what to do.

    Raises:
        ChainError: CHAIN_UNREACHABLE, CHAIN_DISAGREES.
    """
    holder = chain.holder(registration.holder_id)
    again = "run `usufruct holder register` to change it on chain, or put the old one back"
    problems = []
    if holder.operator != operator:
        problems.append(f"The operator key is {operator}, on chain it is {holder.operator}; {again}.")
    if holder.endpoint != config.endpoint:
        problems.append(f"The endpoint is {config.endpoint}, on chain it is {holder.endpoint}; {again}.")
    if holder.fingerprint != fingerprint:
        shown = fingerprint_text(fingerprint), fingerprint_text(holder.fingerprint)
        problems.append(f"The TLS key is {shown[0]}, on chain it is {shown[1]}; {again}.")
    for served in catalogue.all():
        where = f"Dataset {served.dataset_id} ({served.card.path.name})"
        try:
            entry = chain.dataset(served.dataset_id)
        except ChainError as error:
            if error.may_pass:
                raise
            problems.append(f"{where} is not on chain; run `usufruct holder register`.")
            continue
        if entry.holder_id != registration.holder_id:
            problems.append(f"{where} belongs to holder {entry.holder_id} on chain.")
        if entry.card_hash != served.card.hash:
            problems.append(
                f"{where}: the card is not the one that was registered; put the old card back, or register it as a new dataset."
            )
        mine = served.config
        here, there = (mine.order, mine.token), (entry.order, entry.token)
        if here != there:
            problems.append(
                f"{where}: order and token are {here} here and {there} on chain; make holder.toml say what is on chain."
            )
        if mine.cap_micro > entry.cap_micro:
            problems.append(
                f"{where}: the budget is {mine.cap_micro} here and {entry.cap_micro} on chain, and a server never has more "
                f"than the chain; set cap_micro = {entry.cap_micro} in holder.toml."
            )
        if served.terms != entry.terms:
            problems.append(
                f"{where}: {', '.join(_different(served.terms, entry.terms))} on chain; run `usufruct holder register` to "
                "change it there, or put the old values back into holder.toml."
            )
    return problems


def _different(here: DatasetTerms, there: DatasetTerms) -> list[str]:
    """The terms that differ, in words."""
    words = []
    for field in fields(DatasetTerms):
        mine, theirs = getattr(here, field.name), getattr(there, field.name)
        if mine == theirs:
            continue
        if field.name == "policy_hash":
            words.append("the published policy is another one")
        else:
            words.append(f"{field.name} is {mine} here and {theirs}")
    return words
