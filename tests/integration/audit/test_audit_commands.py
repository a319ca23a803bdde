"""`usufruct audit` as a process, against a real chain and real endpoints."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_job import PLAN, PRICE_UNITS, ROUNDS, FinishedNetwork

from usufruct.audit import collect, judge
from usufruct.audit.endpoint_records import fetch_all
from usufruct.audit.record_files import file_name
from usufruct.cli import main


def arguments_of(network: FinishedNetwork, *arguments: str, rpc: str = "", contract: str = "") -> list[str]:
    return [
        "audit", *arguments, "--rpc", rpc or network.rpc, "--contract", contract or network.compute_access
    ]  # fmt: skip


def process(
    network: FinishedNetwork, *arguments: str, rpc: str = "", contract: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    command = [
        sys.executable, "-m", "usufruct.cli", *arguments_of(network, *arguments, rpc=rpc, contract=contract)
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def audit(
    network: FinishedNetwork, *arguments: str, rpc: str = "", contract: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command through the same entry point, in this process: a process takes seconds to load the chain."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            main(arguments_of(network, *arguments, rpc=rpc, contract=contract))
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess([], code, out.getvalue(), errors.getvalue())


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def folder(network: FinishedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "records"
    done = audit(network, "fetch", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_verify_reads_the_endpoints_and_says_that_nothing_differs(network: FinishedNetwork) -> None:
    done = process(network, "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified: 3 jobs, 5 legs" in done.stdout
    assert "nothing differs" in done.stdout


def test_verify_tells_budgets_and_epsilon_in_json(network: FinishedNetwork) -> None:
    done = audit(network, "verify", "--json", "--delta", "1e-5")
    found = answer(done)
    assert done.returncode == 0 and found["verified"]
    committed = {row["dataset_id"]: row["committed_micro"] for row in found["datasets"]}
    assert committed == {
        1: 2 * PLAN.reservation_micro,
        2: PLAN.reservation_micro,
        3: 2 * PLAN.reservation_micro,
    }
    assert found["datasets"][1]["epsilon_committed"] == pytest.approx(PLAN.epsilon)
    assert found["counts"]["attempts_charged"] == 3 * (ROUNDS + 1) + 1 + ROUNDS


def test_log_shows_every_job_leg_grant_loss_payment_and_refusal(network: FinishedNetwork) -> None:
    found = answer(audit(network, "log", "--json"))
    assert sorted(len(job["states"]) for job in found["jobs"]) == [1, 1, 1]
    assert [leg["state"] for leg in found["legs"]] == ["PAID", "PAID", "PAID", "REFUNDED", "DELIVERED"]
    assert sum(leg["paid_units"] for leg in found["legs"]) == 3 * PRICE_UNITS
    assert sum(leg["refunded_units"] for leg in found["legs"]) == PRICE_UNITS
    granted = {row["document_hash"] for row in found["usage"] if row["kind"] == "GRANTED"}
    assert granted == {leg["grant_hash"] for leg in found["legs"]}
    assert {row["reason"] for row in found["usage"] if row["kind"] == "REFUSED"} == {
        "BUDGET_SHORT",
        "POLICY_REFUSED",
    }
    assert all(row["root"] for row in found["usage"])
    shown = audit(network, "log").stdout
    for text in ("refused", "BUDGET_SHORT", "lost", "paid", str(PLAN.reservation_micro), "Privacy budgets"):
        assert text in shown


def test_kept_records_verify_without_endpoints_and_one_bit_off_is_named(
    network: FinishedNetwork, folder: Path, tmp_path: Path
) -> None:
    assert audit(network, "verify", "--records", str(folder)).returncode == 0
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    changed = tmp_path / file_name(2)
    lines = changed.read_bytes().split(b"\n")
    lines[5 + 6] = lines[5 + 6][:-1] + (b"0" if lines[5 + 6][-1:] == b"1" else b"1")
    changed.write_bytes(b"\n".join(lines))
    done = process(network, "verify", "--records", str(tmp_path))
    assert done.returncode == 1
    assert "NOT verified" in done.stdout and "holder 2, record 6" in done.stdout


def test_records_of_a_holder_that_are_not_there_are_a_finding(
    network: FinishedNetwork, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        if path.name != file_name(3):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    done = audit(network, "verify", "--json", "--records", str(tmp_path))
    assert done.returncode == 1
    missing = [f for f in answer(done)["findings"] if f["kind"] == "record-missing"]
    assert [f["where"] for f in missing] == [{"holder_id": 3, "record": 0, "last_record": 21}]


def test_an_endpoint_with_another_key_and_one_that_is_gone_are_findings(network: FinishedNetwork) -> None:
    evidence = collect(network.rpc, network.compute_access)
    assert judge(evidence).verified
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{unused.getsockname()[1]}"
        holders = evidence.storage.holders
        asked = [(replace(holders[1], fingerprint=bytes(32)), 15), (replace(holders[2], endpoint=gone), 14)]
        records = fetch_all(asked, connect_seconds=2.0)
    found = judge(replace(evidence, records={**evidence.records, **records})).discrepancies
    unreadable = {f.place.holder_id: f.text for f in found if f.kind == "record-unreadable"}
    assert set(unreadable) == {1, 2}
    assert "is pinned" in unreadable[1] and "cannot be reached" in unreadable[2]
    assert {(f.place.holder_id, f.place.last_record) for f in found if f.kind == "record-missing"} == {
        (1, 14),
        (2, 13),
    }


@pytest.mark.parametrize("command", ["verify", "log"])
def test_without_a_chain_there_is_a_clear_message_within_ten_seconds(
    network: FinishedNetwork, command: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        started = time.monotonic()
        done = audit(network, command, rpc=f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert done.returncode == 1 and time.monotonic() - started < 10
    assert "does not answer" in done.stderr and "Traceback" not in done.stderr


def test_a_wrong_contract_or_folder_is_said_in_one_sentence(network: FinishedNetwork, tmp_path: Path) -> None:
    done = audit(network, "verify", "--json", contract=network.token)
    assert done.returncode == 1 and answer(done)["error"] == "WRONG_CHAIN"
    done = audit(network, "verify", "--records", str(tmp_path / "none"))
    assert done.returncode == 1 and "audit fetch" in done.stderr and "Traceback" not in done.stderr


def test_an_audit_loads_no_torch(network: FinishedNetwork, folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from usufruct.audit import collect, judge; import usufruct.audit.commands; "
        f"assert judge(collect({network.rpc!r}, {network.compute_access!r}, Path({str(folder)!r}))).verified; "
        "print([m for m in ('torch', 'tenseal', 'opacus', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [[], ["log"], ["verify"], ["fetch"]])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["audit", *command, "--help"])
    assert not end.value.code
    assert "--help" in capsys.readouterr().out


def test_help_loads_neither_the_chain_nor_an_accountant() -> None:
    program = (
        "import sys, usufruct.audit.commands; "
        "print([m for m in ('web3', 'grpc', 'dp_accounting', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
