"""What a holder publishes about a dataset, looked at before money is locked: its bytes hash to what the chain holds."""

from __future__ import annotations

import json
from typing import Any

from usufruct.builder.datasets import Dataset
from usufruct.builder.settings import EscrowTerms
from usufruct.domain.dataset_card import need_flat
from usufruct.domain.query import JobKind
from usufruct.errors import Refused

READ_VERSION = 1
"""Of the published policy; what another version says is for its holder to judge."""


def check_policy(dataset_id: int, policy: bytes, terms: EscrowTerms) -> None:
    """Whether a holder will accept a leg on these terms, as far as its policy says.

    Raises:
        Refused: POLICY_REFUSED, naming the dataset and what would be accepted.
    """
    facts = _facts(policy)
    arbiters, longest = facts.get("arbiters"), facts.get("longest_challenge_seconds")
    if terms.arbiter is not None and isinstance(arbiters, list) and terms.arbiter not in arbiters:
        listed = ", ".join(map(str, arbiters)) or "none"
        raise Refused(
            f"The holder of dataset {dataset_id} does not accept {terms.arbiter} as arbiter; its policy lists: {listed}.",
            dataset_id=dataset_id,
            field="arbiter",
        )
    if isinstance(longest, int) and terms.challenge_seconds > longest:
        raise Refused(
            f"The holder of dataset {dataset_id} accepts a challenge window of {longest} seconds at most, not "
            f"{terms.challenge_seconds}.",
            dataset_id=dataset_id,
            field="challenge_seconds",
            limit=longest,
        )


def check_noise(dataset: Dataset, noise: str) -> None:
    """Whether a dataset's holder accepts noise that is added there, as far as its policy says.

    Raises:
        Refused: POLICY_NOISE_MODE, naming the dataset.
    """
    if noise_accepted(dataset, noise) is False:
        raise Refused(
            f"The policy of dataset {dataset.id} ({dataset.name}) does not accept {noise} noise; leave it out, or ask for "
            "another noise.",
            reason="POLICY_NOISE_MODE",
            dataset_id=dataset.id,
            field="noise",
        )


def check_kind(dataset: Dataset, kind: JobKind) -> None:
    """Whether a dataset's holder accepts jobs of this kind, as far as its policy says.

    Raises:
        Refused: POLICY_JOB_KIND, naming the dataset.
    """
    kinds = _facts(dataset.policy).get("job_kinds")
    if isinstance(kinds, list) and kind not in kinds:
        raise Refused(
            f"The policy of dataset {dataset.id} ({dataset.name}) does not accept {kind} jobs; leave it out.",
            reason="POLICY_JOB_KIND",
            dataset_id=dataset.id,
            field="query",
        )


def noise_accepted(dataset: Dataset, noise: str) -> bool | None:
    """Whether a dataset's policy lists this noise; None where it says nothing that this version can read."""
    modes = _facts(dataset.policy).get("noise_modes")
    return noise in modes if isinstance(modes, list) else None


def _facts(policy: bytes) -> dict[str, Any]:
    try:
        need_flat(policy)
        facts = json.loads(policy)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) and facts.get("version") == READ_VERSION else {}
