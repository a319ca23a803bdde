"""Python's EIP-712 hashes are those of eth-account, and so of the contracts (which test the same vectors)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from usufruct.chain import signer, typed_data
from usufruct.domain.grant import Grant, Sponsorship
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.errors import InvalidInput

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests" / "vectors"
VECTORS = json.loads((FOLDER / "eip712.json").read_text())
CHAIN_ID, REGISTRY, COMPUTE_ACCESS, USAGE_LOG = (
    VECTORS[k] for k in ("chain_id", "registry", "compute_access", "usage_log")
)


@dataclass(frozen=True)
class Statement:
    """How Python hashes and signs one kind of statement.

    Attributes:
        sign: takes what ``hash`` takes, after the account; None where only the hash is of use.
        struct: the dataclass that both take; None: they take the fields one by one.
    """

    fields: tuple[str, ...]
    contract: str
    hash: Callable[..., bytes]
    sign: Callable[..., Any] | None
    struct: type | None = None

    def arguments(self, values: tuple[object, ...]) -> tuple[object, ...]:
        given = values if self.struct is None else (self.struct(*values),)
        return (*given, CHAIN_ID, self.contract)


STATEMENTS = {
    "grants": Statement(
        typed_data.GRANT_FIELDS, REGISTRY, typed_data.grant_hash, typed_data.sign_grant, Grant
    ),
    "calls": Statement(typed_data.CALL_FIELDS, REGISTRY, typed_data.call_hash, None),
    "sponsorships": Statement(
        typed_data.SPONSORSHIP_FIELDS, COMPUTE_ACCESS, typed_data.sponsorship_hash, typed_data.sign_sponsorship,
        Sponsorship,
    ),
    "acceptances": Statement(
        typed_data.ACCEPTANCE_FIELDS, COMPUTE_ACCESS, typed_data.acceptance_hash, typed_data.sign_acceptance
    ),
    "declines": Statement(
        typed_data.DECLINE_FIELDS, COMPUTE_ACCESS, typed_data.decline_hash, typed_data.sign_decline
    ),
    "failures": Statement(
        typed_data.FAILURE_FIELDS, COMPUTE_ACCESS, typed_data.failure_hash, typed_data.sign_failure
    ),
    "receipts": Statement(
        typed_data.RECEIPT_FIELDS, COMPUTE_ACCESS, typed_data.receipt_hash, typed_data.sign_receipt, LegReceipt
    ),
    "lowers": Statement(typed_data.LOWER_FIELDS, COMPUTE_ACCESS, typed_data.lower_hash, typed_data.sign_lower),
    "acknowledgements": Statement(
        typed_data.ACKNOWLEDGEMENT_FIELDS, COMPUTE_ACCESS, typed_data.acknowledgement_hash,
        typed_data.sign_acknowledgement,
    ),
    "batches": Statement(typed_data.USAGE_BATCH_FIELDS, USAGE_LOG, typed_data.usage_batch_hash, None),
}  # fmt: skip
KINDS = sorted(STATEMENTS)


def case(kind: str, index: int) -> tuple[object, ...]:
    """The arguments of a statement of the vectors."""
    fields = STATEMENTS[kind].fields
    values = VECTORS[kind][index]
    assert list(values) == [field.split(" ")[1] for field in fields]
    return STATEMENTS[kind].arguments(
        tuple(
            bytes.fromhex(value[2:]) if field.startswith("bytes") else value
            for field, value in zip(fields, values.values(), strict=True)
        )
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_statement_hashes_as_the_vectors_say(kind: str) -> None:
    for index, expected in enumerate(VECTORS[f"{kind}_hash"]):
        assert "0x" + STATEMENTS[kind].hash(*case(kind, index)).hex() == expected


def test_the_vectors_have_every_kind_and_several_cases_of_each() -> None:
    assert {key for key in VECTORS if f"{key}_hash" in VECTORS} == set(STATEMENTS)
    assert all(len(set(VECTORS[f"{kind}_hash"])) == 5 for kind in STATEMENTS)


def test_the_vectors_are_what_their_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import make_eip712

    assert make_eip712.vectors() == VECTORS
    del sys.modules["make_eip712"]


def test_every_type_that_the_contracts_sign_is_hashed_here() -> None:
    types = (ROOT / "contracts" / "src" / "Types.sol").read_text()
    signed = set(re.findall(r'keccak256\(\s*"(\w+\([^"]*\))"', types))
    here = {
        name: value for name, value in vars(typed_data).items() if name.endswith("_FIELDS")
    }  # of constants such as GRANT_FIELDS
    assert {text.split("(", 1)[1][:-1] for text in signed} == {",".join(fields) for fields in here.values()}
    assert len(signed) == len(STATEMENTS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_hash_depends_on_chain_and_contract(kind: str) -> None:
    *given, chain_id, contract = case(kind, 2)
    digest = STATEMENTS[kind].hash
    others = {CHAIN_ID + 1: contract, CHAIN_ID: "0x" + "44" * 20}
    assert (
        len(
            {
                digest(*given, chain_id, contract),
                *(digest(*given, chain, where) for chain, where in others.items()),
            }
        )
        == 3
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if STATEMENTS[kind].sign is not None])
def test_signatures_name_their_signer(kind: str) -> None:
    account, statement = Account.create(), STATEMENTS[kind]
    assert statement.sign is not None
    made = statement.sign(account, *case(kind, 2))
    signature = made if isinstance(made, bytes) else made.signature
    assert len(signature) == 65
    assert signer(statement.hash(*case(kind, 2)), signature) == account.address


@pytest.mark.parametrize("signature", [b"", bytes(65), b"\xff" * 65, bytes(64)])
def test_a_signature_that_nobody_can_have_made_is_named(signature: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        signer(bytes(32), signature)
    assert caught.value.reason == "BAD_SIGNATURE"


def test_a_value_out_of_range_is_refused_not_cut_off() -> None:
    for too_great in (1 << 64, -1):
        with pytest.raises(InvalidInput):
            typed_data.lower_hash(bytes(32), too_great, CHAIN_ID, COMPUTE_ACCESS)


@pytest.mark.parametrize("cut_off", [b"", bytes(31), bytes(33), "0x" + "00" * 32])
def test_a_hash_that_was_cut_off_is_refused_not_padded(cut_off: object) -> None:
    """A grant whose spec hash is missing would allow any spec if it were padded with zeros."""
    for kind in ("grants", "acceptances", "lowers", "batches"):
        statement = STATEMENTS[kind]
        values = [bytes(32) if field.startswith("bytes32") else 0 for field in statement.fields]
        names = [field.split(" ")[0] for field in statement.fields]
        values = [REGISTRY if name == "address" else value for name, value in zip(names, values, strict=True)]
        statement.hash(*statement.arguments(tuple(values)))
        values[names.index("bytes32")] = cut_off
        with pytest.raises(InvalidInput, match="32 bytes"):
            statement.hash(*statement.arguments(tuple(values)))
