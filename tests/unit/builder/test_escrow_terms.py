"""How a job is opened: figures are checked before anyone is asked, and survive the disk to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from listed_datasets import OPERATOR, TOKEN

from usufruct.builder.opening import Opening, read_opening
from usufruct.builder.settings import EscrowTerms
from usufruct.domain.grant import Grant, SignedGrant, SignedSponsorship, Sponsorship
from usufruct.errors import InvalidInput, UsufructError

SPONSORSHIP = SignedSponsorship(
    Sponsorship(OPERATOR, bytes([1]) * 32, bytes([2]) * 32, TOKEN, 10**30, 2_000_000_000), bytes(range(65))
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"accept_within_seconds": 0},
        {"accept_within_seconds": 60.0},
        {"accept_within_seconds": 401 * 86_400},
        {"challenge_seconds": 3599},
        {"challenge_seconds": 30 * 86_400 + 1},
        {"challenge_seconds": True},
        {"arbiter": "0x12"},
    ],
)
def test_what_no_contract_would_take_is_refused_and_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsufructError) as caught:
        EscrowTerms(**wrong)
    assert isinstance(caught.value, InvalidInput)
    assert caught.value.details["field"] == next(iter(wrong))


def test_an_arbiter_is_kept_with_its_checksum() -> None:
    assert EscrowTerms(arbiter=OPERATOR.lower()).arbiter == OPERATOR


@pytest.mark.parametrize("sponsorship", [None, SPONSORSHIP])
def test_what_a_job_is_opened_with_survives_the_disk(sponsorship: SignedSponsorship | None) -> None:
    grant = Grant(
        7,
        OPERATOR,
        bytes([3]) * 32,
        bytes([4]) * 32,
        TOKEN,
        2**96 - 1,
        1,
        5,
        5,
        1,
        2_000_000_000,
        3,
        bytes([5]) * 32,
    )
    opening = Opening(
        1_900_000_000,
        86_400,
        OPERATOR,
        {TOKEN: 10**30},
        (SignedGrant(grant, bytes(range(65))),) * 2,
        sponsorship,
    )
    assert read_opening(json.loads(json.dumps(opening.to_json()))) == opening
