"""What a holder publishes about a dataset, in the exact bytes whose hash is on chain, and the terms registered there."""

from __future__ import annotations

import json

from eth_utils.crypto import keccak

from usufruct.chain import DatasetTerms
from usufruct_server.holder.config import DatasetConfig, Policy

POLICY_VERSION = 1
GRANT_TERM_SLACK_SECONDS = 86_400
"""The chain's limit on a grant's term is this much above the policy's, for clocks and for later changes."""


def published_policy(policy: Policy, dataset: DatasetConfig, card_hash: bytes) -> bytes:
    """Canonical JSON (sorted keys, UTF-8, no spaces) of what a builder may know before it proposes.

    The lists of builders are not in it: whom a holder trusts is its own affair.
    """
    facts = {
        "version": POLICY_VERSION,
        "card_hash": "0x" + card_hash.hex(),
        "auto_grant": policy.auto_grant,
        "unknown_builders": policy.unknown_builders,
        "job_kinds": sorted(policy.job_kinds),
        "noise_modes": sorted(mode.name.lower() for mode in policy.offered_modes),
        "order": dataset.order,
        "delta_pico": round(dataset.delta * 1e12),
        "max_loss_per_job_micro": _max_loss_per_job_micro(policy, dataset),
        "max_loss_per_grant_micro": _max_loss_per_grant_micro(policy, dataset),
        "max_attempts_per_job": policy.max_rounds,
        "min_cohort": dataset.min_cohort,
        "token": dataset.token,
        "price_units": str(_price_units(policy, dataset)),
        "grant_term_seconds": policy.grant_term_seconds,
        "arbiters": sorted(policy.arbiters),
        "longest_challenge_seconds": policy.longest_challenge_seconds,
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def dataset_terms(policy: Policy, dataset: DatasetConfig, card_hash: bytes) -> DatasetTerms:
    """What is registered on chain for a dataset, the hash of its published policy included."""
    return DatasetTerms(
        price_units=_price_units(policy, dataset),
        min_cohort=dataset.min_cohort,
        max_loss_per_job_micro=_max_loss_per_job_micro(policy, dataset),
        max_loss_per_grant_micro=_max_loss_per_grant_micro(policy, dataset),
        max_grant_term_seconds=policy.grant_term_seconds + GRANT_TERM_SLACK_SECONDS,
        policy_hash=keccak(published_policy(policy, dataset, card_hash)),
    )


def _price_units(policy: Policy, dataset: DatasetConfig) -> int:
    return max(dataset.price_units, policy.min_price_units)


def _max_loss_per_job_micro(policy: Policy, dataset: DatasetConfig) -> int:
    return policy.loss_limit_micro(dataset.order, dataset.delta, dataset.cap_micro)


def _max_loss_per_grant_micro(policy: Policy, dataset: DatasetConfig) -> int:
    per_job = _max_loss_per_job_micro(policy, dataset)
    return per_job if dataset.max_loss_per_grant_micro is None else dataset.max_loss_per_grant_micro
