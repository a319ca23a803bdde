"""Registers holder and datasets on chain with the admin key. Again: only what has changed."""

from __future__ import annotations

from collections.abc import Callable

from eth_account.signers.local import LocalAccount

from usufruct.chain import Chain, Sender, key_address
from usufruct.errors import ConfigError
from usufruct.wire.tls import load_identity
from usufruct_server.holder.catalogue import CardFile, load_card
from usufruct_server.holder.config import DatasetConfig, HolderConfig
from usufruct_server.holder.published_policy import dataset_terms
from usufruct_server.holder.registration import Registration, read_registration, write_registration


def register(
    config: HolderConfig, chain: Chain, admin: LocalAccount, payout: str | None, tell: Callable[[str], None]
) -> Registration:
    """Registers what is not registered, and writes the numbers into the state directory after each step.

    Raises:
        ConfigError: a card is not finished, a key is missing. ChainError: the chain refuses.
    """
    cards = [(load_card(entry.card), entry) for entry in config.datasets]
    if not cards:
        raise ConfigError(f"{config.path}: there is no [[datasets]] table to register.")
    identity = load_identity(config.tls_dir)
    operator = key_address(config.keys.operator)
    if operator is None:
        raise ConfigError(
            f"{config.keys.operator} names no address; make the key anew.", reason="KEY_INVALID"
        )
    sender = Sender(chain, admin, config.admin_outbox_path)
    try:
        sender.account.settle()  # what an earlier run has left in the outbox
        return _register(config, chain, sender, operator, identity.fingerprint, cards, payout, tell)
    finally:
        sender.close()


def _register(
    config: HolderConfig, chain: Chain, sender: Sender, operator: str, fingerprint: bytes,
    cards: list[tuple[CardFile, DatasetConfig]], payout: str | None, tell: Callable[[str], None],
) -> Registration:  # fmt: skip
    found = read_registration(config.registration_path, chain.chain_id, chain.compute_access)
    if found is None:
        holder_id = sender.register_holder(operator, payout or sender.address, config.endpoint, fingerprint)
        found = Registration(chain.chain_id, chain.compute_access, holder_id, {})
        write_registration(config.registration_path, found)
        tell(f"registered as holder {holder_id}")
    else:
        entry = chain.holder(found.holder_id)
        if entry.operator != operator:
            sender.set_operator(found.holder_id, operator)
            tell(f"changed the operator key to {operator}")
        if (entry.endpoint, entry.fingerprint) != (config.endpoint, fingerprint):
            sender.update_endpoint(found.holder_id, config.endpoint, fingerprint)
            tell(f"changed the endpoint to {config.endpoint}")
    _require_accounted(chain, found, cards)
    for card, dataset in cards:
        terms = dataset_terms(config.policy, dataset, card.hash)
        dataset_id = dataset.dataset_id or found.dataset_id(card.hash)
        if dataset_id is None:
            dataset_id = sender.register_dataset(
                found.holder_id, card.hash, dataset.token, dataset.order, dataset.cap_micro, terms,
                previous_id=dataset.previous_id or 0, disjoint=dataset.disjoint,
            )  # fmt: skip
            found = found.with_dataset(card.hash, dataset_id)
            write_registration(config.registration_path, found)
            tell(f"registered {card.path.name} as dataset {dataset_id}")
            continue
        there = chain.dataset(dataset_id)
        if there.terms != terms:
            sender.set_terms(dataset_id, terms)
            tell(f"changed the terms of dataset {dataset_id}, for jobs that are opened from now on")
        if dataset.cap_micro < there.cap_micro:
            sender.set_cap(dataset_id, dataset.cap_micro)
            tell(f"lowered the budget of dataset {dataset_id}")
    return found


def _require_accounted(
    chain: Chain, found: Registration, cards: list[tuple[CardFile, DatasetConfig]]
) -> None:
    """A changed card must not become a dataset with a fresh budget over the same people without anybody saying so."""
    fresh = [
        (card, dataset)
        for card, dataset in cards
        if dataset.dataset_id is None and found.dataset_id(card.hash) is None
    ]
    named = {dataset.dataset_id or found.dataset_id(card.hash) for card, dataset in cards}
    named |= {dataset.previous_id for _, dataset in fresh}
    for dataset_id in sorted(set(found.datasets.values()) - named):
        if fresh and chain.dataset(dataset_id).active:
            raise ConfigError(
                f"{fresh[0][0].path.name} is not registered, and dataset {dataset_id} is active and in no [[datasets]] table "
                f"any more. If the card is a new version of it, say so with previous_id = {dataset_id}: what was spent of "
                f"the one is then spent of the other. Otherwise give it up first: `usufruct holder retire {dataset_id}`."
            )
