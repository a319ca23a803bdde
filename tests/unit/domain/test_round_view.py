"""Offers and views: what is shown to all holders alike, and that no two of them share a hash."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from usufruct.domain.round_view import RoundOffer, RoundView
from usufruct.errors import InvalidInput

OFFER = RoundOffer(b"j" * 32, b"s" * 32, 2, 3, b"p" * 32, b"w" * 32)
ROSTER = ((3, b"a" * 32), (5, b"b" * 32), (8, b"c" * 32))
VIEW = RoundView(OFFER, ROSTER)


def test_every_field_of_an_offer_is_in_its_hash() -> None:
    hashes = {OFFER.hash}
    for field in fields(OFFER):
        value = getattr(OFFER, field.name)
        changed = value + 1 if isinstance(value, int) else bytes(32)
        hashes.add(replace(OFFER, **{field.name: changed}).hash)
    assert len(hashes) == 1 + len(fields(OFFER))


def test_offer_members_and_mask_keys_are_in_a_views_hash() -> None:
    others = [
        RoundView(replace(OFFER, attempt=4), ROSTER),
        RoundView(OFFER, ROSTER[:2]),
        RoundView(OFFER, (*ROSTER[:2], (9, b"c" * 32))),
        RoundView(OFFER, (*ROSTER[:2], (8, b"d" * 32))),
        RoundView(OFFER, ((3, b"b" * 32), (5, b"a" * 32), ROSTER[2])),
    ]
    assert len({VIEW.hash, OFFER.hash, *(view.hash for view in others)}) == 2 + len(others)
    assert VIEW.datasets == (3, 5, 8) and VIEW.mask_keys[5] == b"b" * 32


@pytest.mark.parametrize(
    "roster",
    [
        (),
        ROSTER[::-1],
        (ROSTER[0], ROSTER[0]),
        ((3, b"a" * 32), (3, b"b" * 32)),
        ((3, b"a" * 32), (5, b"a" * 32)),
        ((3, b"a" * 31),),
        ((-1, b"a" * 32),),
        ((1 << 64, b"a" * 32),),
    ],
    ids=["empty", "descending", "double", "dataset twice", "key twice", "short key", "negative", "too large"],
)
def test_a_roster_names_each_dataset_and_each_key_once_in_order(roster) -> None:
    with pytest.raises(InvalidInput) as refused:
        RoundView(OFFER, roster)
    assert refused.value.reason == "ROSTER_MISMATCH"


@pytest.mark.parametrize(
    "change",
    [{"job_id": b"short"}, {"weights_digest": bytes(33)}, {"round": 0}, {"attempt": 0}, {"attempt": 1 << 32}],
)
def test_an_offer_out_of_range_is_refused(change) -> None:
    with pytest.raises(InvalidInput) as refused:
        replace(OFFER, **change)
    assert refused.value.details["field"] == next(iter(change))
