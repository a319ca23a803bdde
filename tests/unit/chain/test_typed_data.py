"""Python's EIP-712 hashes are those of eth-account, and so of the contracts (which test the same vectors)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from eth_account import Account

from usufruct.chain import (
    acknowledgement_hash,
    grant_hash,
    receipt_hash,
    sign_acknowledgement,
    sign_grant,
    sign_receipt,
    signer,
)
from usufruct.domain.grant import Grant
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.errors import InvalidInput

FOLDER = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FOLDER / "eip712.json").read_text())
CHAIN_ID, REGISTRY, COMPUTE_ACCESS = (VECTORS[k] for k in ("chain_id", "registry", "compute_access"))


def _values(case: dict[str, object]) -> list[object]:
    return [bytes.fromhex(v[2:]) if isinstance(v, str) and len(v) == 66 else v for v in case.values()]


GRANTS = [Grant(*_values(case)) for case in VECTORS["grants"]]
RECEIPTS = [LegReceipt(*_values(case)) for case in VECTORS["receipts"]]


@pytest.mark.parametrize("index", range(len(GRANTS)))
def test_a_grant_hashes_as_the_vectors_say(index: int) -> None:
    assert "0x" + grant_hash(GRANTS[index], CHAIN_ID, REGISTRY).hex() == VECTORS["grants_hash"][index]


@pytest.mark.parametrize("index", range(len(RECEIPTS)))
def test_a_receipt_and_its_acknowledgement_hash_as_the_vectors_say(index: int) -> None:
    found = receipt_hash(RECEIPTS[index], CHAIN_ID, COMPUTE_ACCESS)
    assert "0x" + found.hex() == VECTORS["receipts_hash"][index]
    acknowledged = acknowledgement_hash(RECEIPTS[index].leg_id, found, CHAIN_ID, COMPUTE_ACCESS)
    assert "0x" + acknowledged.hex() == VECTORS["acknowledgements_hash"][index]


def test_the_vectors_are_what_their_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import make_eip712

    assert make_eip712.vectors() == VECTORS
    del sys.modules["make_eip712"]


def test_the_hash_depends_on_chain_and_contract() -> None:
    hashes = {
        grant_hash(GRANTS[2], CHAIN_ID, REGISTRY),
        grant_hash(GRANTS[2], CHAIN_ID + 1, REGISTRY),
        grant_hash(GRANTS[2], CHAIN_ID, COMPUTE_ACCESS),
    }
    assert len(hashes) == 3


def test_signatures_name_their_signer() -> None:
    account = Account.create()
    signed = sign_grant(account, GRANTS[2], CHAIN_ID, REGISTRY)
    assert signer(grant_hash(GRANTS[2], CHAIN_ID, REGISTRY), signed.signature) == account.address
    digest = receipt_hash(RECEIPTS[2], CHAIN_ID, COMPUTE_ACCESS)
    assert signer(digest, sign_receipt(account, RECEIPTS[2], CHAIN_ID, COMPUTE_ACCESS)) == account.address
    by_builder = sign_acknowledgement(account, RECEIPTS[2].leg_id, digest, CHAIN_ID, COMPUTE_ACCESS)
    acknowledged = acknowledgement_hash(RECEIPTS[2].leg_id, digest, CHAIN_ID, COMPUTE_ACCESS)
    assert signer(acknowledged, by_builder) == account.address
    assert len(signed.signature) == 65


@pytest.mark.parametrize("signature", [b"", bytes(65), b"\xff" * 65, bytes(64)])
def test_a_signature_that_nobody_can_have_made_is_named(signature: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        signer(bytes(32), signature)
    assert caught.value.reason == "BAD_SIGNATURE"


def test_a_value_out_of_range_is_refused_not_cut_off() -> None:
    values = _values(VECTORS["grants"][2])
    values[0] = 1 << 64
    with pytest.raises(InvalidInput):
        grant_hash(Grant(*values), CHAIN_ID, REGISTRY)


@pytest.mark.parametrize("cut_off", [b"", bytes(31)])
def test_a_hash_that_was_cut_off_is_refused_not_padded(cut_off: bytes) -> None:
    """A grant whose spec hash is missing would allow any spec if it were padded with zeros."""
    values = _values(VECTORS["grants"][2])
    values[2] = cut_off
    with pytest.raises(InvalidInput):
        grant_hash(Grant(*values), CHAIN_ID, REGISTRY)
