"""Signatures of a round: each says one thing, by one key, and none stands for another."""

from __future__ import annotations

import pytest
from eth_account import Account

from usufruct.errors import InvalidInput, RoundFailed
from usufruct.v1 import aggregation_pb2
from usufruct.wire import signatures

BUILDER, OPERATOR, OTHER = (Account.from_key(bytes([n]) * 32) for n in (1, 2, 3))
OFFER, VIEW, ROOT, SEED, KEY, JOB = (bytes([n]) * 32 for n in range(10, 16))
OPERATORS = {3: OPERATOR.address, 5: OTHER.address}
ROUND = {"job_id": JOB, "round": 2, "attempt": 4, "view_hash": VIEW, "operators": OPERATORS}
CHECK = {"view_hash": VIEW, "sum_root": ROOT, "seed": SEED, "dataset_id": 3, "values": [1, 2, (1 << 56) - 1]}


def bad_signature():
    return pytest.raises(InvalidInput, match="not signed")


def upload(operator=OPERATOR, dataset_id: int = 3, **changes) -> aggregation_pb2.UploadHeader:
    fields = {**ROUND, "dataset_id": dataset_id, "upload_root": ROOT, "upload_bytes": 99, **changes}
    return signatures.signed_upload_header(operator, **fields)


def test_an_offer_is_the_builders() -> None:
    signature = signatures.sign_offer(BUILDER, OFFER)
    signatures.verify_offer(OFFER, signature, BUILDER.address)
    for wrong in (
        (VIEW, signature, BUILDER.address),
        (OFFER, signature, OTHER.address),
        (OFFER, b"", BUILDER.address),
    ):
        with bad_signature():
            signatures.verify_offer(*wrong)


def test_readiness_names_offer_dataset_and_mask_key() -> None:
    signature = signatures.sign_ready(OPERATOR, OFFER, 3, KEY)
    signatures.verify_ready(OFFER, 3, KEY, signature, OPERATOR.address)
    for wrong in (
        (VIEW, 3, KEY, signature, OPERATOR.address),
        (OFFER, 4, KEY, signature, OPERATOR.address),
        (OFFER, 3, SEED, signature, OPERATOR.address),
        (OFFER, 3, KEY, signature, OTHER.address),
    ):
        with bad_signature():
            signatures.verify_ready(*wrong)
    with pytest.raises(InvalidInput):
        signatures.verify_ready(OFFER, 1 << 64, KEY, signature, OPERATOR.address)


def test_a_check_names_view_sum_seed_dataset_and_every_value() -> None:
    signature = signatures.sign_check(OPERATOR, **CHECK)
    signatures.verify_check(**CHECK, signature=signature, operator=OPERATOR.address)
    for change in (
        {"view_hash": OFFER},
        {"sum_root": OFFER},
        {"seed": OFFER},
        {"dataset_id": 5},
        {"values": [1, 2, 3]},
        {"values": [*CHECK["values"], 0]},
        {"signature": bytes(65)},
        {"operator": OTHER.address},
    ):
        with bad_signature():
            signatures.verify_check(
                **{**CHECK, "signature": signature, "operator": OPERATOR.address, **change}
            )
    with pytest.raises(InvalidInput):
        signatures.sign_check(OPERATOR, **{**CHECK, "values": [1 << 64]})


def test_no_signature_stands_for_another() -> None:
    messages = {
        signatures.ready_message(VIEW, 3, ROOT),
        signatures.check_message(VIEW, ROOT, SEED, 3, [1]),
        signatures.upload_message(**ROUND, dataset_id=3, upload_root=ROOT, upload_bytes=99),
        VIEW,
        OFFER,
    }
    assert len(messages) == 5


def test_the_uploads_of_a_roster_give_their_roots() -> None:
    headers = [upload(OTHER, 5, upload_root=SEED), upload()]
    assert signatures.verify_uploads(headers, **ROUND) == {3: ROOT, 5: SEED}


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [upload()],
        [upload(), upload()],
        [upload(), upload(OTHER, 5), upload(OTHER, 5)],
        [upload(), upload(OTHER, 5, view_hash=OFFER)],
        [upload(), upload(OTHER, 5, attempt=5)],
    ],
    ids=["none", "one missing", "one twice", "one too often", "another view", "another attempt"],
)
def test_uploads_of_another_roster_or_round_are_refused(headers) -> None:
    with pytest.raises(RoundFailed) as refused:
        signatures.verify_uploads(headers, **ROUND)
    assert refused.value.reason == "ROSTER_MISMATCH"


def test_an_upload_is_signed_for_its_root_and_its_roster() -> None:
    with bad_signature():
        signatures.verify_uploads([upload(), upload(OPERATOR, 5)], **ROUND)
    altered = upload()
    altered.upload_root = SEED
    fewer = upload(operators={3: OPERATOR.address})
    for header in (altered, fewer):
        with bad_signature():
            signatures.verify_upload_header(header, OPERATORS)
