"""A published policy is read before money is locked; bytes that are no policy never stop a job by themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from listed_datasets import OPERATOR, TOKEN

from usufruct.builder.policies import check_policy
from usufruct.builder.settings import EscrowTerms
from usufruct.errors import Refused


def policy(**facts: Any) -> bytes:
    return json.dumps(
        {"version": 1, "arbiters": [OPERATOR], "longest_challenge_seconds": 7200, **facts}
    ).encode()


def test_terms_inside_the_policy_pass() -> None:
    check_policy(1, policy(), EscrowTerms(challenge_seconds=7200))
    check_policy(1, policy(), EscrowTerms(challenge_seconds=3600, arbiter=OPERATOR))


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        (EscrowTerms(challenge_seconds=7200, arbiter=TOKEN), "arbiter"),
        (EscrowTerms(challenge_seconds=7201), "challenge_seconds"),
    ],
)
def test_terms_outside_it_are_refused_with_what_would_be_accepted(terms: EscrowTerms, field: str) -> None:
    with pytest.raises(Refused) as caught:
        check_policy(1, policy(), terms)
    assert (caught.value.reason, caught.value.details["field"]) == ("POLICY_REFUSED", field)
    assert (OPERATOR if field == "arbiter" else "7200") in caught.value.message


@pytest.mark.parametrize(
    "odd",
    [
        b"", b"\xff", b"[1]", b"7", b"[" * 100_000, policy(version=2), policy(arbiters=7, longest_challenge_seconds="long"),
    ],
)  # fmt: skip
def test_what_is_no_policy_of_this_version_is_left_to_its_holder(odd: bytes) -> None:
    check_policy(1, odd, EscrowTerms(arbiter=TOKEN))
