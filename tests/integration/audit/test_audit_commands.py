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
from finished_job import PLAN, PRICE_UNITS, ROUNDS, FinishedNetwork, Network

from usufruct.audit import collect, judge
from usufruct.audit.endpoint_records import fetch_all
from usufruct.audit.record_files import file_name
from usufruct.chain import create_key, key_address
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
    assert "Verified: 13 jobs, 17 legs" in done.stdout
    assert "nothing differs" in done.stdout


def test_verify_tells_budgets_and_epsilon_in_json(network: FinishedNetwork) -> None:
    done = audit(network, "verify", "--json", "--delta", "1e-5")
    found = answer(done)
    assert done.returncode == 0 and found["verified"]
    committed = {row["dataset_id"]: row["committed_micro"] for row in found["datasets"]}
    assert committed == {
        1: 4 * PLAN.reservation_micro,
        2: 2 * PLAN.reservation_micro,
        3: 3 * PLAN.reservation_micro + ROUNDS * PLAN.loss_per_attempt_micro,
        4: 2 * PLAN.reservation_micro,  # a version, which takes over what the one before has spent
    }
    assert found["datasets"][1]["epsilon_committed"] > PLAN.epsilon
    assert found["counts"]["attempts_charged"] == 3 * (ROUNDS + 1) + 6 * ROUNDS + 1


def test_log_shows_every_job_leg_grant_loss_payment_and_refusal(network: FinishedNetwork) -> None:
    found = answer(audit(network, "log", "--json"))
    assert [leg["state"] for leg in found["legs"]] == [
        *4 * ["ACKNOWLEDGED"], "CANCELLED", "DECLINED", "FAILED", "RELEASED", "RELEASED", "RESOLVED", "SETTLED",
        "UNRESOLVED", "EXPIRED", "DELIVERED", "DISPUTED", "LOCKED", "ACCEPTED",
    ]  # fmt: skip
    price_less_fee = PRICE_UNITS * 99 // 100
    paid = sum(leg["paid_units"] for leg in found["legs"])
    assert paid == 5 * price_less_fee + PRICE_UNITS * 6 // 10 * 99 // 100
    assert sum(leg["refunded_units"] for leg in found["legs"]) == 7 * PRICE_UNITS + PRICE_UNITS * 4 // 10
    assert (
        sum(leg["fee_units"] for leg in found["legs"]) == 5 * (PRICE_UNITS // 100) + PRICE_UNITS * 6 // 1000
    )
    granted = {row["document_hash"] for row in found["usage"] if row["kind"] == "GRANTED"}
    assert granted == {leg["grant_hash"] for leg in found["legs"]}
    assert {row["reason"] for row in found["usage"] if row["kind"] == "REFUSED"} == {
        "BUDGET_SHORT",
        "POLICY_REFUSED",
    }
    assert all(row["root"] for row in found["usage"])
    assert [(call["holder_id"], call["sequence"], call["state"]) for call in found["calls"]] == [
        (2, 0, "ANSWERED")
    ]
    shown = audit(network, "log").stdout
    for text in (
        "refused",
        "BUDGET_SHORT",
        "lost",
        "acknowledged",
        str(PLAN.reservation_micro),
        "Privacy budgets",
    ):
        assert text in shown


def test_verify_can_show_less_and_still_judges_all(
    network: FinishedNetwork, folder: Path, tmp_path: Path
) -> None:
    asked = ("--records", str(folder), "--json")
    shown = answer(audit(network, "verify", "--holder", "2", *asked))
    assert {row["holder_id"] for row in shown["datasets"]} == {2}
    assert {note["where"]["holder_id"] for note in shown["notes"]} <= {2}
    disputed = answer(audit(network, "verify", "--dataset", "1", *asked))
    assert [note["kind"] for note in disputed["notes"]] == ["leg-waiting"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() if path.name != file_name(3) else b"")
    done = audit(network, "verify", "--holder", "2", "--records", str(tmp_path), "--json")
    assert done.returncode == 1
    assert not answer(done)["verified"] and answer(done)["findings"] == []


def test_the_records_of_one_holder_can_be_kept_alone(network: FinishedNetwork, tmp_path: Path) -> None:
    assert audit(network, "fetch", str(tmp_path), "--holder", "3").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [file_name(3)]


def test_log_can_be_narrowed_to_a_job_a_dataset_and_a_holder(network: FinishedNetwork) -> None:
    everything = answer(audit(network, "log", "--json"))
    wanted = everything["jobs"][0]["job_id"]
    found = answer(audit(network, "log", "--json", "--job", wanted[:12], "--dataset", "2"))
    assert [job["job_id"] for job in found["jobs"]] == [wanted]
    assert [(leg["job_id"], leg["dataset_id"]) for leg in found["legs"]] == [(wanted, 2)]
    assert {(row["job_id"], row["dataset_id"]) for row in found["usage"]} == {(wanted, 2)}
    found = answer(audit(network, "log", "--json", "--holder", "3"))
    assert {row["holder_id"] for row in found["usage"]} == {3}
    assert {leg["holder_id"] for leg in found["legs"]} == {3}


def test_a_record_is_called_for_once_and_its_silence_recorded_when_its_time_is_over(tmp_path: Path) -> None:
    network = Network(tmp_path)
    try:
        holder = network.holders[0]
        network.refuse(holder)
        holder.publisher.publish()
        key, passphrase = tmp_path / "auditor.json", tmp_path / "passphrase"
        passphrase.write_text("only a test\n")
        create_key(key, "only a test", light=True)
        network.dev_chain.evm.fund(bytes.fromhex(str(key_address(key))[2:]), 10**18)
        asked = (
            "call",
            str(holder.holder_id),
            "1",
            "--key",
            str(key),
            "--passphrase-file",
            str(passphrase),
            "--json",
        )
        assert answer(audit(network, *asked))["state"] == "OPEN"
        assert answer(audit(network, *asked))["state"] == "OPEN"
        early = audit(network, *asked, "--record-silence")
        assert early.returncode == 1 and "ask again after that" in answer(early)["message"]
        uncalled = [*asked[:2], "0", *asked[3:], "--record-silence"]
        assert "was not called for" in answer(audit(network, *uncalled))["message"]
        network.dev_chain.evm.increase_time(3 * 86_400 + 1)
        network.dev_chain.evm.mine()
        assert answer(audit(network, *asked, "--record-silence"))["state"] == "SILENT"
        done = audit(network, "verify", "--json")
        assert done.returncode == 1
        assert {(f["kind"], f["where"]["record"]) for f in answer(done)["findings"]} == {("call-silent", 1)}
    finally:
        network.close()


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
    last = len(network.holders[2].ledger.usage_records(0, 10_000)) - 1
    assert [f["where"] for f in missing] == [{"holder_id": 3, "record": 0, "last_record": last}]


def test_an_endpoint_with_another_key_and_one_that_is_gone_are_findings(network: FinishedNetwork) -> None:
    evidence = collect(network.rpc, network.compute_access)
    assert judge(evidence).verified
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{unused.getsockname()[1]}"
        holders = evidence.storage.holders
        ends = {number: head.next_sequence for number, head in evidence.storage.usage_heads.items()}
        asked = [
            (replace(holders[1], fingerprint=bytes(32)), ends[1]),
            (replace(holders[2], endpoint=gone), ends[2]),
        ]
        records = fetch_all(asked, connect_seconds=2.0)
    found = judge(replace(evidence, records={**evidence.records, **records})).discrepancies
    unreadable = {f.place.holder_id: f.text for f in found if f.kind == "record-unreadable"}
    assert set(unreadable) == {1, 2}
    assert "is pinned" in unreadable[1] and "cannot be reached" in unreadable[2]
    assert {(f.place.holder_id, f.place.last_record) for f in found if f.kind == "record-missing"} == {
        (1, ends[1] - 1),
        (2, ends[2] - 1),
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


@pytest.mark.parametrize("command", [[], ["log"], ["verify"], ["fetch"], ["call"]])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["audit", *command, "--help"])
    assert not end.value.code
    assert "--help" in capsys.readouterr().out


def test_help_loads_neither_the_chain_nor_an_accountant() -> None:
    program = (
        "import sys, usufruct.audit.commands; "
        "print([m for m in ('eth_account', 'grpc', 'dp_accounting', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
