"""Registers holder and datasets on chain with the admin key. Again: only what has changed."""

from __future__ import annotations

from collections.abc import Callable

from eth_account.signers.local import LocalAccount

from usufruct.chain import Chain, Sender, key_address
from usufruct.errors import ConfigError
from usufruct.wire.tls import load_identity
from usufruct_server.holder.catalogue import load_card
from usufruct_server.holder.config import HolderConfig
from usufruct_server.holder.registration import Registration, read_registration, write_registration

GRANT_TERM_SLACK_SECONDS = 86_400
"""The chain's limit on a grant's term is this much above the policy's, for clocks and for later changes."""


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
    sender = Sender(chain, admin)
    found = read_registration(config.registration_path, chain.chain_id, chain.compute_access)
    if found is None:
        holder_id = sender.register_holder(
            operator, payout or admin.address, config.endpoint, identity.fingerprint
        )
        found = Registration(chain.chain_id, chain.compute_access, holder_id, {})
        write_registration(config.registration_path, found)
        tell(f"registered as holder {holder_id}")
    else:
        entry = chain.holder(found.holder_id)
        if entry.operator != operator:
            sender.set_operator(found.holder_id, operator)
            tell(f"changed the operator key to {operator}")
        if (entry.endpoint, entry.fingerprint) != (config.endpoint, identity.fingerprint):
            sender.update_endpoint(found.holder_id, config.endpoint, identity.fingerprint)
            tell(f"changed the endpoint to {config.endpoint}")
    for card, dataset in cards:
        if dataset.dataset_id is not None or found.dataset_id(card.hash) is not None:
            continue
        dataset_id = sender.register_dataset(
            found.holder_id, card.hash, dataset.token, dataset.price_units, dataset.min_cohort, dataset.order,
            dataset.cap_micro, config.policy.loss_limit_micro(dataset.order, dataset.delta, dataset.cap_micro),
            config.policy.grant_term_seconds + GRANT_TERM_SLACK_SECONDS,
        )  # fmt: skip
        found = found.with_dataset(card.hash, dataset_id)
        write_registration(config.registration_path, found)
        tell(f"registered {card.path.name} as dataset {dataset_id}")
    return found
