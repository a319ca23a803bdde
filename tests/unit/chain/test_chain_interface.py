"""What Python knows of the contracts is what the contracts say."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from usufruct.chain import LegState
from usufruct.chain.events import _KINDS
from usufruct.chain.interface import interface
from usufruct.chain.reverts import GRANT_REASONS, refusal
from usufruct.errors import CATALOGUE, ChainError, InvalidInput

ROOT = Path(__file__).parents[3]
ARTEFACTS = ROOT / "client" / "usufruct" / "chain" / "artefacts"
TYPES = (ROOT / "contracts" / "src" / "Types.sol").read_text()
CONTRACTS = ("Registry", "ComputeAccess", "UsageLog")


def _enum(name: str) -> list[str]:
    body = re.search(rf"enum {name} \{{([^}}]*)\}}", TYPES)
    assert body is not None
    return [word.strip() for word in body.group(1).split(",")]


def test_every_reason_of_the_contract_has_one_in_the_catalogue() -> None:
    assert [name for name, _ in GRANT_REASONS] == _enum("Reason")
    assert all(reason in CATALOGUE for _, reason in GRANT_REASONS[1:])


def test_leg_states_are_the_contracts() -> None:
    assert ["None", *(state.name.capitalize() for state in LegState)] == _enum("LegState")


def test_every_event_of_the_contracts_is_typed() -> None:
    events = {name for contract in CONTRACTS for name in interface(contract).topics} - {"EIP712DomainChanged"}
    assert events == set(_KINDS)


def test_an_unknown_event_is_an_error_not_a_guess() -> None:
    with pytest.raises(ChainError):
        interface("Registry").decode_log([b"\x01" * 32], b"")


def test_an_answer_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ChainError):
        interface("Registry").decode_result("holder", b"\x01" * 32)


def test_an_argument_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput):
        interface("Registry").encode_call("dataset", 1 << 64)
    with pytest.raises(InvalidInput):
        interface("ComputeAccess").encode_call("legHash", bytes(31))


@pytest.mark.parametrize("data", [None, b"", b"\x01\x02\x03\x04", b"\x01"])
def test_a_refusal_without_a_known_error_still_says_so(data: bytes | None) -> None:
    error = refusal("openJob", data)
    assert error.reason == "TRANSACTION_FAILED"
    assert "openJob" in error.message


@pytest.mark.parametrize("contract", [*CONTRACTS, "TestToken"])
def test_artefacts_fit_the_limit_of_deployed_code_and_the_sources_that_are_shipped(contract: str) -> None:
    artefact = json.loads((ARTEFACTS / f"{contract}.json").read_text())
    assert len(artefact["runtime_bytecode"]) // 2 - 1 == artefact["runtime_bytes"] <= 22_000
    shipped = json.loads((ARTEFACTS / "standard_input.json").read_text())
    digest = hashlib.sha256()
    for path, source in sorted(shipped["sources"].items()):
        digest.update(f"{path}\0{len(source['content'].encode())}\0{source['content']}".encode())
    assert artefact["sources_sha256"] == digest.hexdigest()
    assert {k: v for k, v in shipped["settings"].items() if k != "outputSelection"} == artefact["settings"]
    assert artefact["settings"]["evmVersion"] == "cancun"
    assert artefact["file"] in shipped["sources"]


def test_the_sources_that_are_shipped_are_those_of_the_contracts() -> None:
    shipped = json.loads((ARTEFACTS / "standard_input.json").read_text())["sources"]
    for path in sorted((ROOT / "contracts" / "src").glob("*.sol")):
        assert shipped[f"src/{path.name}"]["content"] == path.read_text(), path.name
