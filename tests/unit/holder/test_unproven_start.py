"""A start that cannot prove what was charged since the last one closes open legs in full; one that can goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from holder_world import Builder, World, free_port, registered, round_parts, server_of

from usufruct.chain import Chain, HolderEntry
from usufruct.chain import LegState as ChainLegState
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.errors import ConfigError, LedgerError, Refused, UsufructError
from usufruct.wire.channel import PinnedEndpoint
from usufruct_server.holder import witness as witnesses
from usufruct_server.holder.config import HolderConfig
from usufruct_server.holder.fencing import Fencing
from usufruct_server.holder.ledger import Ledger, LegState
from usufruct_server.holder.opening import open_operator
from usufruct_server.holder.server import HolderServer
from usufruct_server.holder.witness import Witness


@pytest.fixture
def config(world: World, request: pytest.FixtureRequest) -> HolderConfig:
    return world.holder(request.node.name[:40], port=free_port())


@pytest.fixture
def customer(world: World) -> Iterator[Builder]:
    builder = Builder(world)
    yield builder
    builder.close()


class Served:
    """A holder's server, and what it says at its start."""

    def __init__(self, config: HolderConfig, hear: Callable[[str], None] = lambda text: None) -> None:
        self.told: list[str] = []

        def tell(text: str) -> None:
            self.told.append(text)
            hear(text)

        self.server: HolderServer = server_of(config, open_operator(config), tell)
        self.server.start()
        self.server.housekeeping.close()
        self.dataset_id = registered(config)
        self.peer = PinnedEndpoint(config.endpoint, self.server.identity.fingerprint)

    def closed(self) -> bool:
        """Whether it said that it closed something."""
        return any("closed at its whole reservation" in line for line in self.told)

    def charge(self, builder: Builder, spec: TrainingJobSpec, attempt: int) -> str:
        """One attempt, which finds no aggregator where it is charged; why it ends."""
        return builder.run_alone(
            self.peer, round_parts(builder.account, spec, self.dataset_id, attempt=attempt)
        )

    def kill(self) -> None:
        """Ends it without a word to anybody: what it has open is what a killed process has open."""
        self.server._server.stop(None).wait(10)
        self.server.rounds.close(10)
        self.server.close()


def test_a_kill_goes_on_and_a_backup_of_the_same_start_is_found_out_so_that_nothing_is_undercounted(
    config: HolderConfig, customer: Builder, tmp_path: Path
) -> None:
    killed = Served(config)
    spec = customer.started(killed.peer, killed.dataset_id)
    killed.kill()
    first = Served(config)
    assert not first.closed()
    customer.start(first.peer, spec.job_id, first.dataset_id)
    assert first.charge(customer, spec, 1) == "PEER_UNREACHABLE"
    shutil.copytree(config.state_dir, tmp_path / "backup")
    assert first.charge(customer, spec, 2) == "PEER_UNREACHABLE"
    assert first.server.ledger.leg(first.dataset_id, spec.job_id).charged == 2
    first.kill()

    shutil.rmtree(config.state_dir)
    shutil.copytree(tmp_path / "backup", config.state_dir)
    second = Served(config)
    whole = spec.reservation_micro(second.dataset_id)
    assert second.closed(), second.told
    leg = second.server.ledger.leg(second.dataset_id, spec.job_id)
    assert (leg.charged, leg.state) == (1, LegState.COMMITTED)
    assert second.server.ledger.committed_micro(second.dataset_id, spec.job_id) == whole
    assert second.server.ledger.budget(second.dataset_id).spent_micro == whole

    # no round any more, in words that a builder takes for the end of the job; then the normal end of a leg
    customer.start(second.peer, spec.job_id, second.dataset_id)
    assert second.charge(customer, spec, 3) == "ATTEMPTS_EXHAUSTED"
    each = spec.leg(second.dataset_id).loss_per_attempt_micro
    lower = customer.lower(spec.job_id, second.dataset_id, each)
    answer = customer.finish(second.peer, spec.job_id, second.dataset_id, 1, each, lower)
    assert answer.receipt.loss_micro == whole, "what is missing cannot be agreed away"
    stored = second.server.store.leg(spec.job_id, second.dataset_id)
    assert stored is not None and stored.lower_signature == b"", (
        "nor would the chain take that receipt with it"
    )
    customer.deliver(spec.job_id, second.dataset_id, answer)
    assert customer.leg(spec.job_id, second.dataset_id).state is ChainLegState.ACKNOWLEDGED
    second.server.stop()


def test_a_backup_of_an_unproven_start_before_it_closed_anything_is_unproven_too(
    config: HolderConfig, customer: Builder, tmp_path: Path
) -> None:
    first = Served(config)
    spec = customer.started(first.peer, first.dataset_id)
    assert first.charge(customer, spec, 1) == "PEER_UNREACHABLE"
    shutil.copytree(config.state_dir, tmp_path / "before")
    assert first.charge(customer, spec, 2) == "PEER_UNREACHABLE"
    first.kill()

    def copy(told: str) -> None:
        if told.startswith("taking fencing epoch"):
            shutil.copytree(config.state_dir, tmp_path / "during")

    shutil.rmtree(config.state_dir)
    shutil.copytree(tmp_path / "before", config.state_dir)
    second = Served(config, copy)
    assert second.closed()
    second.kill()
    shutil.rmtree(config.state_dir)
    shutil.copytree(tmp_path / "during", config.state_dir)
    third = Served(config)
    assert third.closed(), "its copy has the row that was anchored, and not what was closed after it"
    assert third.server.ledger.committed_micro(third.dataset_id, spec.job_id) == spec.reservation_micro(
        third.dataset_id
    )
    third.server.stop()


def test_what_was_charged_while_another_server_took_over_does_not_leave(
    config: HolderConfig, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(config)
    spec = customer.started(served.peer, served.dataset_id)
    require = Fencing.require

    def overtaken(self: Fencing, chain: Chain | None = None) -> HolderEntry:
        if served.server.ledger.leg(served.dataset_id, spec.job_id).charged:
            raise Refused("another server of this holder has taken over", reason="FENCED_OUT")
        return require(self, chain)

    monkeypatch.setattr(Fencing, "require", overtaken)
    assert served.charge(customer, spec, 1) == "ATTEMPT_LOST", (
        "not that no aggregator was there to be sent it"
    )
    monkeypatch.undo()
    served.server.stop()


def test_a_leg_that_was_given_up_and_then_closed_by_a_start_is_finished_at_its_whole_reservation(
    config: HolderConfig, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(config)
    spec = customer.started(served.peer, served.dataset_id)
    customer.release(served.peer, spec.job_id, served.dataset_id)
    served.kill()
    monkeypatch.setattr(Witness.__init__, "__defaults__", (lambda: "another boot",))
    served = Served(config)
    assert served.closed()
    with pytest.raises(UsufructError):
        customer.release(served.peer, spec.job_id, served.dataset_id)
    answer = customer.finish(served.peer, spec.job_id, served.dataset_id, 0)
    assert answer.receipt.loss_micro == spec.reservation_micro(served.dataset_id)
    customer.deliver(spec.job_id, served.dataset_id, answer)
    assert customer.leg(spec.job_id, served.dataset_id).state is ChainLegState.ACKNOWLEDGED
    served.server.stop()


def test_a_clock_that_was_set_back_is_found_before_anything_is_taken_over(
    config: HolderConfig, world: World
) -> None:
    Served(config).server.stop()
    holder_id = world.chain.dataset(registered(config)).holder_id
    epoch = world.chain.holder(holder_id).fencing_epoch
    for ahead_seconds, served in ((30, True), (3600, False)):
        ledger = Ledger(config.ledger_path, clock=lambda ahead=ahead_seconds: time.time() + ahead)  # type: ignore[misc]
        ledger.note_start()
        ledger.close()
        if served:
            Served(config).server.stop()
        else:
            with pytest.raises(ConfigError, match=r"clock is 3[56].. s behind"):
                Served(config)
    assert world.chain.holder(holder_id).fencing_epoch == epoch + 1


def test_after_the_machine_was_booted_again_nothing_vouches_for_a_ledger_and_its_open_legs_are_closed(
    config: HolderConfig, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Served(config)
    spec, unaccepted = (customer.granted_and_open(first.peer, first.dataset_id) for _ in range(2))
    customer.accept(first.peer, spec.job_id, first.dataset_id)
    customer.start(first.peer, unaccepted.job_id, first.dataset_id)
    first.kill()
    monkeypatch.setattr(Witness.__init__, "__defaults__", (lambda: "another boot",))
    second = Served(config)
    ledger, dataset_id = second.server.ledger, second.dataset_id
    assert ledger.committed_micro(dataset_id, spec.job_id) == spec.reservation_micro(dataset_id)
    assert ledger.leg(dataset_id, unaccepted.job_id).state is LegState.RESERVED, (
        "it was never open for rounds"
    )
    with pytest.raises(UsufructError) as caught:  # though its ledger shows no charge
        customer.release(second.peer, spec.job_id, dataset_id)
    assert caught.value.reason == "ATTEMPT_ALREADY_CHARGED"
    second.server.stop()


def test_a_start_that_dies_on_the_chain_leaves_what_vouches_for_the_ledger(
    config: HolderConfig, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the transaction and the note of it, twice: the chain names a row that was only expected."""
    first = Served(config)
    spec = customer.started(first.peer, first.dataset_id)
    first.kill()
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Witness, "note", lambda self, row: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                server_of(config)
    second = Served(config)
    assert not second.closed()
    assert second.server.ledger.leg(second.dataset_id, spec.job_id).state is LegState.RESERVED
    second.server.stop()


def test_a_ledger_that_was_on_another_machine_is_vouched_for_by_nothing_however_often_its_start_dies(
    config: HolderConfig, customer: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back: what the witness here has noted is in the ledger, but the server there may have charged since."""
    first = Served(config)
    spec = customer.started(first.peer, first.dataset_id)
    first.kill()
    for place in (tmp_path / "elsewhere", config.witness_dir):
        with monkeypatch.context() as patched:  # before it has closed anything
            patched.setattr(Ledger, "commit", lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                server_of(replace(config, witness_dir=place))
    second = Served(config)
    assert second.closed()
    assert second.server.ledger.leg(second.dataset_id, spec.job_id).state is LegState.COMMITTED
    second.server.stop()


def test_nothing_is_drawn_after_a_charge_that_cannot_be_noted(
    config: HolderConfig, customer: Builder
) -> None:
    first = Served(config)
    spec = customer.started(first.peer, first.dataset_id)
    shutil.rmtree(config.witness_dir)
    with pytest.raises(LedgerError, match="witness_dir"):
        first.server.ledger.charge(first.dataset_id, spec.job_id, 1, 1)
    assert first.server.ledger.leg(first.dataset_id, spec.job_id).charged == 1
    assert first.charge(customer, spec, 1) == "ATTEMPT_LOST"
    first.server.stop()


# -- the witness by itself ----------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def test_a_witness_vouches_for_what_was_noted_and_follows_the_anchor(ledger: Ledger, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", "me")
    older, anchored, newer = (ledger.note_start() for _ in range(3))
    assert not witness.vouches(ledger, anchored), "nothing was noted"
    witness.note(older)
    assert not witness.vouches(ledger, anchored), "a server elsewhere may have charged since the anchor"
    assert not Witness(tmp_path / "witness", "another holder").vouches(ledger, older)
    for noted in (anchored, newer):
        witness.note(noted)
        assert witness.vouches(ledger, anchored)
        assert Witness(tmp_path / "witness", "me").vouches(ledger, anchored), "another process sees the same"
    assert not Witness(tmp_path / "witness", "me", lambda: "another boot").vouches(ledger, anchored)
    assert not Witness(tmp_path / "witness", "me", lambda: "").vouches(ledger, anchored)
    witness.note(bytes(range(32)))
    assert not witness.vouches(ledger, anchored), "the ledger lacks what was noted"


def test_an_expected_anchor_counts_until_something_is_noted(ledger: Ledger, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", "me")
    noted, *expected = (ledger.note_start() for _ in range(20))
    witness.note(noted)
    for row in expected:
        witness.expect(row)
    assert witness.vouches(ledger, expected[-1])
    assert witness.vouches(ledger, expected[-2]), "its transaction may come through later"
    witness.note(noted)
    assert not witness.vouches(ledger, expected[-1])


def test_a_damaged_witness_vouches_for_nothing(ledger: Ledger, tmp_path: Path) -> None:
    witness, row = Witness(tmp_path / "witness", "me"), ledger.note_start()
    for damaged in (b"", b"\xff\n\xff\n", witnesses.boot_id().encode(), b"\n\n"):
        witness.path.write_bytes(damaged)
        assert not witness.vouches(ledger, row)


def test_a_folder_that_others_may_write_into_is_no_place_for_a_witness(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("open", "link", "file"):
        with pytest.raises(ConfigError, match="witness_dir"):
            Witness(tmp_path / name, "me")
