"""The SDK against a whole network of real processes: the design's own lines, resuming, the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from charged import WatchedNetwork
from safetensors.numpy import load_file
from torch import nn

import usufruct as uf
from usufruct.builder import JobHandle, Network, accepting
from usufruct.builder.book import JobBook
from usufruct.builder.opening import send_opening
from usufruct.builder.receipts import receipt_on_chain
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.errors import InvalidInput, UsufructError
from usufruct_server.demo.network import DatasetSetup, HolderSetup, LocalNetwork

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

LOSS = "binary_cross_entropy_with_logits"


def hospital(number: int) -> DatasetSetup:
    card = DatasetCard(
        name=f"hospital {number}",
        task="sums",
        description="made up: the label is whether a + b is above 10",
        columns=(Column("a", "number", 0.0, 10.0), Column("b", "number", 0.0, 10.0)),
        label=Label("y", (("0",), ("1",))),
        person_column=None,
        nominal_size=110,
    )
    rows = [
        {"a": str(a), "b": str(b), "y": str(int(a + b > 10))}
        for a in range(10)
        for b in range(number % 2, 11, 1)
    ]
    return DatasetSetup(card, tuple(rows), price_units=1000, min_cohort=2, budget_epsilon=60.0)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    holders = [HolderSetup(f"hospital-{number}", [hospital(number)]) for number in (1, 2, 3)]
    with WatchedNetwork(tmp_path_factory.mktemp("network") / "net", holders) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USUFRUCT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def network(local: LocalNetwork, home: Path) -> Network:
    return uf.connect(local.rpc_url, contract=local.compute_access, key=local.builder_key)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


VALIDATION = (torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([0, 1]))


def train(local: LocalNetwork, network: Network, **options: object) -> JobHandle:
    settings = {
        "aggregator": local.aggregator,
        "loss": LOSS,
        "optimizer": uf.SGD(lr=0.5),
        "privacy": uf.Privacy(epsilon=6.0, noise="local"),
        "rounds": 3,
        "validation": VALIDATION,
        **options,
    }
    datasets = settings.pop("datasets", None) or network.datasets(ids=[1, 2, 3])
    return network.train(settings.pop("model", None) or model(), datasets, **settings)  # type: ignore[arg-type]


def charged(job: JobHandle) -> list[int]:
    """What the receipts on chain say about attempts, by dataset."""
    chain = job._network.chain
    return [receipt_on_chain(chain, leg).attempts_charged for leg in chain.job_legs(job.spec.job_id)]


# -- when all goes well -----------------------------------------------------------------------------------------------


def test_the_lines_of_the_design_run(local: LocalNetwork, network: Network) -> None:
    hospitals = network.datasets(task="sums")
    assert [dataset.id for dataset in hospitals] == [1, 2, 3]
    quote = network.quote(
        model(), hospitals, privacy=uf.Privacy(epsilon=6.0, noise="local"), rounds=3, loss=LOSS
    )
    before = network.balance()
    trained = model()
    job = train(local, network, model=trained)
    results = list(job)
    assert [r.index for r in results] == [1, 2, 3]
    assert results[0].epsilon < results[-1].epsilon < job.epsilon <= 6.0
    assert results[-1].validation_loss is not None
    assert results[-1].upload_bytes == quote.upload_bytes_per_round
    assert job.model is trained
    assert job.finished
    assert job.paid == quote.price_units[local.token] == 3000
    assert all(leg.acknowledged and not leg.findings for leg in job.receipts)
    assert all(leg.epsilon == results[-1].epsilon < quote.epsilon for leg in job.receipts), (
        "no spare attempt was used"
    )
    assert charged(job) == [3, 3, 3]
    assert 1 < (quote.gas - 47_500) / job.gas_used < 1.15, f"{job.gas_used} gas where {quote.gas} were quoted"
    after = network.balance()
    spent = before.wallet[local.token] + before.deposits[local.token] - after.wallet[local.token]
    assert spent - after.deposits[local.token] == 3000
    assert [dataset.spent_micro for dataset in network.datasets(ids=[1])] == [job.receipts[0].loss_micro]


def test_a_job_resumed_in_the_middle_goes_on_with_its_weights_and_its_momentum(
    local: LocalNetwork, network: Network, home: Path
) -> None:
    job = train(local, network, server_optimizer=uf.ServerSGD(lr=0.5, momentum=0.9))
    first = next(iter(job))
    weights = {name: value.clone() for name, value in job.model.state_dict().items()}
    job.close()
    (memory,) = (home / "jobs" / job.id).glob("optimizer-*")
    start = torch.cat([value.flatten() for value in model().state_dict().values()])
    stepped = torch.cat([value.flatten() for value in weights.values()])
    torch.testing.assert_close(
        torch.from_numpy(load_file(memory)["momentum"]), (stepped - start) / 0.5, rtol=0, atol=1e-5
    )
    again = uf.resume(job.id)
    assert again.rounds_done == 1
    assert again.history == (first,)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert [r.index for r in again] == [2, 3]
    assert [path.name for path in (home / "jobs" / job.id).glob("optimizer-*")] == ["optimizer-3.safetensors"]
    own = model()
    own.load_state_dict(again.model.state_dict())
    assert uf.resume(job.id).finished


def test_two_handles_cannot_drive_one_job(local: LocalNetwork, network: Network) -> None:
    job = train(local, network, rounds=1)
    with pytest.raises(UsufructError) as caught:
        uf.resume(job.id)
    assert caught.value.reason == "LEDGER_LOCKED"
    job.run()


# -- legs that are not accepted, jobs that are called off -------------------------------------------------------------


def test_a_job_that_is_called_off_gives_money_and_budget_back(local: LocalNetwork, network: Network) -> None:
    money, budgets = total(network, local), reserved_and_spent(network)
    job = train(local, network)
    assert reserved_and_spent(network) != budgets
    departure = job.cancel()
    assert [leg.state for leg in departure.results] == ["FAILED"] * 3
    assert departure.refunded_units == {local.token: 3000}
    assert (total(network, local), reserved_and_spent(network)) == (money, budgets)
    network.withdraw(3000)


def test_after_a_round_it_is_delivered_and_paid_for_what_was_drawn(
    local: LocalNetwork, network: Network
) -> None:
    budgets = reserved_and_spent(network)
    job = train(local, network)
    next(iter(job))
    departure = job.cancel()
    assert [leg.state for leg in departure.results] == ["ACKNOWLEDGED"] * 3
    assert charged(job) == [1, 1, 1]
    spent = {leg.dataset_id: leg.loss_per_attempt_micro for leg in job.spec.legs}
    assert reserved_and_spent(network) == {
        dataset: (reserved, before + spent[dataset]) for dataset, (reserved, before) in budgets.items()
    }


def test_an_arbiter_that_no_holder_knows_is_found_before_money_is_locked(
    local: LocalNetwork, network: Network
) -> None:
    balance, budgets = network.balance(), reserved_and_spent(network)
    with pytest.raises(UsufructError) as caught:
        train(local, network, arbiter=network.address)
    assert (caught.value.reason, caught.value.details["field"]) == ("POLICY_REFUSED", "arbiter")
    assert (network.balance(), reserved_and_spent(network)) == (balance, budgets)


def test_a_holder_that_dies_before_it_accepts_is_done_without(
    local: LocalNetwork, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_once_open(book: JobBook) -> int:
        block = send_opening(book)
        local.kill("hospital-3")
        return block

    monkeypatch.setattr(accepting, "send_opening", die_once_open)
    try:
        job = train(local, network, rounds=1, accept_within_seconds=8).run()
    finally:
        local.restart("hospital-3")
    assert job.datasets == (1, 2)
    assert {leg.dataset_id: leg.state for leg in job.legs} == {
        1: "ACKNOWLEDGED",
        2: "ACKNOWLEDGED",
        3: "RELEASED",
    }
    assert (job.paid, job.refunded) == (2000, 1000)
    assert job.history[0].validation_loss is not None


def total(network: Network, local: LocalNetwork) -> int:
    """The builder's money, deposited or not."""
    balance = network.balance()
    return balance.wallet[local.token] + balance.deposits[local.token]


def reserved_and_spent(network: Network) -> dict[int, tuple[int, int]]:
    """By dataset, what the chain has of its budget."""
    return {entry.dataset_id: (entry.reserved_micro, entry.spent_micro) for entry in network.chain.datasets()}


# -- at a terminal ----------------------------------------------------------------------------------------------------


def usufruct(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "usufruct.cli", "builder", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})


def test_a_job_file_is_quoted_submitted_and_watched(local: LocalNetwork, home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b,y\n1,2,0\n9,8,1\n")
    (tmp_path / "job.toml").write_text(
        f"""
        [network]
        rpc = "{local.rpc_url}"
        contract = "{local.compute_access}"
        key = "{local.builder_key}"
        aggregator = "{local.aggregator}"
        [data]
        datasets = [1, 2, 3]
        validation = "mine.csv"
        [model]
        hidden = [3]
        [training]
        loss = "{LOSS}"
        rounds = 2
        lr = 0.5
        [privacy]
        epsilon = 4.0
        """
    )
    place = ("--rpc", local.rpc_url, "--contract", local.compute_access)
    listed = [json.loads(line) for line in usufruct("datasets", *place, "--json").stdout.splitlines()]
    assert [entry["id"] for entry in listed] == [1, 2, 3]
    quoted = json.loads(usufruct("quote", str(tmp_path / "job.toml"), "--json").stdout)
    assert quoted["price_units"] == {local.token: 3000}
    output = tmp_path / "model.safetensors"
    done = usufruct("submit", str(tmp_path / "job.toml"), "--output", str(output), "--json")
    assert done.returncode == 0, done.stderr
    said, *rounds, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert said["quote"]["price_units"] == quoted["price_units"]
    assert [entry["index"] for entry in rounds] == [1, 2]
    assert rounds[-1]["validation_loss"] > 0
    assert summary["epsilon"] == rounds[-1]["epsilon"] < quoted["epsilon"] <= 4.0
    assert (summary["paid"], summary["findings"]) == (3000, [])
    assert output.stat().st_size > 0
    seen = json.loads(usufruct("watch", summary["job_id"], "--json").stdout)
    assert (seen["phase"], seen["rounds_done"], len(seen["legs"])) == ("finished", 2, 3)
    unknown = usufruct("watch", "0x" + "00" * 32, "--json")
    assert unknown.returncode != 0
    assert json.loads(unknown.stdout)["error"] == "JOB_UNKNOWN"


# -- what goes wrong after the last round; deaths in the middle of one are in tests/faults ---------------------------


def test_a_holder_that_dies_before_it_delivered_is_named_and_the_others_are_paid(
    local: LocalNetwork, network: Network
) -> None:
    job = train(local, network, rounds=1)
    rounds = iter(job)
    next(rounds)
    local.kill("hospital-2")
    started = time.monotonic()
    with pytest.raises(UsufructError) as caught:
        next(rounds)
    assert time.monotonic() - started < 10
    assert "dataset 2" in caught.value.message
    assert f'uf.resume("{job.id}")' in caught.value.message
    assert job.paid == 2000
    job.close()
    local.restart("hospital-2")
    again = uf.resume(job.id)
    assert list(again) == []
    assert (again.paid, again.finished) == (3000, True)


def test_an_unknown_job_is_said_to_be_unknown(home: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        uf.resume("0x" + "00" * 32)
    assert caught.value.reason == "JOB_UNKNOWN"
