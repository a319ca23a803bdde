"""A development chain with one or more registered holders, and a builder that speaks the wire protocol by hand."""

from __future__ import annotations

import atexit
import csv
import functools
import hashlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from charged import assert_one_integer
from eth_account import Account
from eth_account.signers.local import LocalAccount
from torch import nn

from usufruct import graph
from usufruct.chain import Addresses, Chain, LegEntry, Sender, deploy, sign_lower
from usufruct.chain.dev_chain import DevChain
from usufruct.chain.dev_evm import DevEvm
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.ids import leg_id
from usufruct.domain.round_view import RoundOffer, RoundView
from usufruct.domain.training_job import (
    AggregatorRef,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
)
from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.keys import RoundKey
from usufruct.errors import UsufructError
from usufruct.privacy import LocalPlan
from usufruct.v1 import jobs_pb2, jobs_pb2_grpc, rounds_pb2
from usufruct.wire.aggregation import RoundToSum
from usufruct.wire.auth import authenticated_channel
from usufruct.wire.channel import PinnedEndpoint, pinned_channel
from usufruct.wire.jobs import purpose_hash, signed_grant_from_proto, spec_hash, spec_to_bytes
from usufruct.wire.model_graph import graph_to_bytes
from usufruct.wire.raw import RUN_ROUND, with_header
from usufruct.wire.receipts import receipt_from_proto
from usufruct.wire.signatures import sign_offer, sign_view
from usufruct.wire.status import rpc_errors
from usufruct_server.holder.config import HolderConfig, read_config
from usufruct_server.holder.job_store import LegStatus
from usufruct_server.holder.opening import open_admin, open_operator
from usufruct_server.holder.register import register
from usufruct_server.holder.server import HolderServer
from usufruct_server.holder.setup_files import Answers, write_files
from usufruct_server.holder.training.zygote import Zygote

WIDTH = 2
COIN = 10**20
ACCEPT_SECONDS = 600
GRANT_ALL = 'auto_grant = true\nunknown_builders = "grant"\nmax_rounds = 11000'
MODEL = graph.trace(nn.Linear(WIDTH, 1), (WIDTH,)).graph


def card(person_column: str | None = None) -> DatasetCard:
    """A card of two numbers and a binary label."""
    return DatasetCard(
        name="Two numbers",
        task="test",
        description="",
        columns=tuple(Column(f"x{i}", "number", -1.0, 1.0, missing="midpoint") for i in range(WIDTH)),
        label=Label("y", (("0",), ("1",))),
        person_column=person_column,
        nominal_size=60,
    )


def write_data(path: Path, persons: int = 60, rows: int = 60) -> None:
    """Rows of random numbers; fewer persons than rows gives somebody two."""
    generator = np.random.default_rng(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", "x0", "x1", "y"])
        for row in range(rows):
            x = generator.uniform(-1, 1, size=WIDTH)
            writer.writerow([f"p{row % persons}", *x.round(3), int(x.sum() > 0)])


@functools.cache
def deployed() -> tuple[DevEvm, Addresses]:
    """A chain with the contracts and nothing else; every world has a copy."""
    with DevChain() as dev:
        deployer = Account.create()
        fund(dev, deployer.address)
        return dev.evm, deploy(dev.url, deployer, test_token=True)


@functools.cache
def zygote() -> Zygote:
    """One for all servers of this process: each would load PyTorch anew."""
    shared = Zygote()
    atexit.register(shared.close)
    return shared


def server_of(
    config: HolderConfig, operator: LocalAccount | None = None, tell: Callable[[str], None] = lambda text: None
) -> HolderServer:  # fmt: skip
    """A holder's server, not started yet."""
    return HolderServer(config, operator or open_operator(config), tell, zygote())


@dataclass
class World:
    """A chain with its contracts, the token, and accounts that have coin.

    Attributes:
        ledgers: of its holders, whether they were ever served or not.
    """

    dev: DevChain
    chain: Chain
    token: str
    folder: Path
    ledgers: list[Path] = field(default_factory=list)

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[World]:
        """On a chain of its own."""
        evm, addresses = deployed()
        assert addresses.test_token is not None
        with DevChain(evm=evm.copy()) as dev:
            world = cls(dev, Chain.connect(dev.url, addresses.compute_access), addresses.test_token, folder)
            yield world
            with DevChain(evm=dev.evm) as afterwards:  # a test may have stopped the other one
                world.compare_books(Chain.connect(afterwards.url, addresses.compute_access))

    def compare_books(self, chain: Chain) -> None:
        """What was charged must be one integer on ``chain`` and in all books of those holders that were served."""
        assert_one_integer(chain, [path for path in self.ledgers if path.exists()])

    def now(self) -> int:
        """Time of the chain's newest block, UTC seconds."""
        return self.chain.rpc.newest().time_seconds

    def pass_time(self, seconds: int) -> None:
        """Lets time pass on the chain."""
        self.dev.evm.increase_time(seconds)
        self.dev.evm.mine()

    def account(self) -> LocalAccount:
        """A fresh account with coin."""
        account: LocalAccount = Account.create()
        fund(self.dev, account.address)
        return account

    def holder(
        self, name: str, *, port: int, policy: str = GRANT_ALL,
        person_column: str | None = None, persons: int = 60, min_cohort: int = 1, cap_micro: int = 9_000_000,
    ) -> HolderConfig:  # fmt: skip
        """A registered holder with one dataset."""
        folder = self.folder / name
        answers = Answers(
            name,
            f"127.0.0.1:{port}",
            None,
            self.dev.url,
            self.chain.compute_access,
            self.chain.chain_id,
            self.token,
        )
        made = write_files(folder, None, answers, None, light=True)
        write_data(folder / "data.csv", persons)
        made.card.write_bytes(card(person_column).to_bytes())
        text = made.config.read_text()
        text = text.replace("[holder]", '[holder]\nwitness_dir = "witness"', 1)
        before, _, after = text.partition("[policy]")
        after = after[after.index("[[datasets]]") :]
        after = after.replace("budget_epsilon = 10.0", f"cap_micro = {cap_micro}").replace(
            "min_cohort = 3", f"min_cohort = {min_cohort}"
        )
        made.config.write_text(f"{before}[policy]\n{policy}\n\n{after}")
        for address in (made.operator, made.admin):
            fund(self.dev, address)
        config = read_config(made.config)
        register(config, self.chain, open_admin(config), None, lambda step: None)
        self.ledgers.append(config.ledger_path)
        return config


@dataclass(frozen=True)
class Place:
    """A holder's running server and the world it is in."""

    world: World
    server: HolderServer

    @property
    def peer(self) -> PinnedEndpoint:
        """Where it is reached."""
        return PinnedEndpoint(self.server.config.endpoint, self.server.identity.fingerprint)

    @property
    def dataset_id(self) -> int:
        """Its one dataset."""
        return registered(self.server.config)

    def budgets(self) -> tuple[int, int, int, int]:
        """Reserved and spent of the dataset: in the ledger, and on chain; 10^-6 nat."""
        book, entry = self.server.ledger.budget(self.dataset_id), self.world.chain.dataset(self.dataset_id)
        return book.reserved_micro, book.spent_micro, entry.reserved_micro, entry.spent_micro

    def status(self, spec: TrainingJobSpec) -> LegStatus:
        """How the job's leg stands at the holder."""
        leg = self.server.store.leg(spec.job_id, self.dataset_id)
        assert leg is not None
        return leg.state


def fund(dev: DevChain, address: str) -> None:
    """Gives an account coin for gas."""
    dev.evm.fund(bytes.fromhex(address[2:]), COIN)


class Builder:
    """A model builder by hand: just enough to drive a holder through one job."""

    def __init__(self, world: World, account: LocalAccount | None = None) -> None:
        self.world = world
        self.account = account or world.account()
        self.sender = Sender(world.chain, self.account)
        self._channels: list[grpc.Channel] = []

    def spec(
        self, *dataset_ids: int, aggregator: PinnedEndpoint | None = None, **changes: Any
    ) -> TrainingJobSpec:
        """A small job over the datasets; ``plan`` in ``changes`` replaces figures of the plan."""
        plan = TrainingPlan(NoiseMode.LOCAL, 2, 1, 2, 200_000_000, 1_000_000, 2_000_000, 10_000_000, 16)
        plan = replace(plan, **changes.pop("plan", {}))
        chain = self.world.chain
        legs = []
        for index, dataset_id in enumerate(dataset_ids):
            entry = chain.dataset(dataset_id)
            weight = 10**9 // len(dataset_ids) + (10**9 % len(dataset_ids) if index == 0 else 0)
            legs.append(
                LegTerms(
                    dataset_id, entry.holder_id, entry.card_hash, 60, chain.holder(entry.holder_id).operator, entry.token,
                    entry.price_units, entry.order, local_plan(plan, entry.order).loss_per_attempt_micro, weight,
                )
            )  # fmt: skip
        fields: dict[str, Any] = {
            "chain_id": chain.chain_id, "compute_access": chain.compute_access, "builder": self.account.address,
            "nonce": secrets.token_bytes(32), "model_graph": graph_to_bytes(MODEL),
            "loss": "binary_cross_entropy_with_logits", "optimizer": LocalOptimizer("sgd", 100_000_000), "plan": plan,
            "legs": tuple(legs), "encryption": EncryptionPlan(DEFAULT_PARAMETERS.name, 16, 10**9, WIDTH + 1),
            "aggregator": AggregatorRef(*_aggregator(aggregator)), "min_cohort": len(legs), "purpose": "a test",
            "deliver_by_seconds": max(int(time.time()), self.world.now()) + 3600, "round_timeout_seconds": 60,
        }  # fmt: skip
        return TrainingJobSpec(**{**fields, **changes})

    def channel(self, holder: PinnedEndpoint) -> grpc.Channel:
        """A pinned channel that proves this builder's key."""
        plain = pinned_channel(holder.endpoint, holder.fingerprint)
        self._channels.append(plain)
        return authenticated_channel(plain, self.account, holder.fingerprint)

    def jobs(self, holder: PinnedEndpoint) -> Any:
        """The holder's JobService."""
        return jobs_pb2_grpc.JobServiceStub(self.channel(holder))  # type: ignore[no-untyped-call]

    def propose(
        self, holder: PinnedEndpoint, dataset_id: int, spec_bytes: bytes, request_id: str = "r1"
    ) -> jobs_pb2.Proposal:
        """Proposes; errors are ours."""
        request = jobs_pb2.ProposeJobRequest(request_id=request_id, dataset_id=dataset_id, spec=spec_bytes)
        with rpc_errors():
            answer: jobs_pb2.Proposal = self.jobs(holder).ProposeJob(request, timeout=60)
        return answer

    def open(
        self, spec: TrainingJobSpec, spec_bytes: bytes, *proposals: jobs_pb2.Proposal, **terms: Any
    ) -> None:
        """Pays and opens the job on chain; ``terms`` replace what is said of acceptance, deadlines and disputes."""
        price = sum(terms.price_units for terms in spec.legs)
        self.sender.mint_test_token(self.world.token, self.account.address, price)
        self.sender.deposit(self.world.token, price)
        legs = [(signed_grant_from_proto(p.grant), spec.reservation_micro(p.dataset_id)) for p in proposals]
        asked: dict[str, Any] = {
            "accept_by_seconds": self.world.now() + ACCEPT_SECONDS, "deliver_by_seconds": spec.deliver_by_seconds,
            "challenge_term_seconds": 3600, "min_legs": spec.min_cohort,
        }  # fmt: skip
        self.sender.open_job(
            spec.nonce, spec_hash(spec_bytes), purpose_hash(spec.purpose), legs, **{**asked, **terms}
        )

    def granted_and_open(self, holder: PinnedEndpoint, dataset_id: int, **changes: Any) -> TrainingJobSpec:
        """Proposes and opens a job over one dataset; ``terms`` in ``changes`` are for opening."""
        terms = changes.pop("terms", {})
        spec = self.spec(dataset_id, **changes)
        data = spec_to_bytes(spec)
        proposal = self.propose(holder, dataset_id, data, request_id=secrets.token_hex(8))
        assert proposal.state == jobs_pb2.PROPOSAL_STATE_GRANTED, proposal.reason
        self.open(spec, data, proposal, **terms)
        return spec

    def started(self, holder: PinnedEndpoint, dataset_id: int, **changes: Any) -> TrainingJobSpec:
        """Proposes and opens a job over one dataset, and has its leg accepted: rounds may run."""
        spec = self.granted_and_open(holder, dataset_id, **changes)
        self.accept(holder, spec.job_id, dataset_id)
        return spec

    def accept(self, holder: PinnedEndpoint, job_id: bytes, dataset_id: int) -> None:
        """StartLeg, and the holder's acceptance on chain."""
        answer = self.start(holder, job_id, dataset_id)
        self.sender.accept(self.leg(job_id, dataset_id), answer.fencing_epoch, answer.acceptance_signature)

    def leg(self, job_id: bytes, dataset_id: int) -> LegEntry:
        """A leg as the chain has it."""
        leg = self.world.chain.leg(job_id, dataset_id)
        assert leg is not None
        return leg

    def start(self, holder: PinnedEndpoint, job_id: bytes, dataset_id: int) -> jobs_pb2.StartLegResponse:
        """StartLeg."""
        with rpc_errors():
            answer: jobs_pb2.StartLegResponse = self.jobs(holder).StartLeg(
                jobs_pb2.StartLegRequest(job_id=job_id, dataset_id=dataset_id), timeout=120
            )
        return answer

    def finish(
        self, holder: PinnedEndpoint, job_id: bytes, dataset_id: int, rounds: int, lower: int = 0,
        lower_signature: bytes = b"",
    ) -> jobs_pb2.FinishLegResponse:  # fmt: skip
        """FinishLeg."""
        request = jobs_pb2.FinishLegRequest(
            job_id=job_id, dataset_id=dataset_id, rounds_done=rounds, lower_loss_micro=lower,
            lower_signature=lower_signature,
        )  # fmt: skip
        with rpc_errors():
            answer: jobs_pb2.FinishLegResponse = self.jobs(holder).FinishLeg(request, timeout=120)
        return answer

    def lower(self, job_id: bytes, dataset_id: int, loss_micro: int) -> bytes:
        """This builder's consent that a leg spends no more."""
        chain = self.world.chain
        return sign_lower(
            self.account, leg_id(job_id, dataset_id), loss_micro, chain.chain_id, chain.compute_access
        )

    def deliver(
        self, job_id: bytes, dataset_id: int, answer: jobs_pb2.FinishLegResponse, lower_signature: bytes = b""
    ) -> None:
        """Submits a receipt and acknowledges it."""
        self.sender.deliver_and_acknowledge(
            self.leg(job_id, dataset_id), receipt_from_proto(answer.receipt), answer.receipt_signature, lower_signature
        )  # fmt: skip

    def release(self, holder: PinnedEndpoint, job_id: bytes, dataset_id: int) -> jobs_pb2.ReleaseLegResponse:
        """ReleaseLeg."""
        with rpc_errors():
            answer: jobs_pb2.ReleaseLegResponse = self.jobs(holder).ReleaseLeg(
                jobs_pb2.ReleaseLegRequest(job_id=job_id, dataset_id=dataset_id), timeout=120
            )
        return answer

    def run_round(self, holder: PinnedEndpoint, parts: RoundParts) -> RoundTalk:
        """RunRound, step by step."""
        return RoundTalk(self.channel(holder), parts)

    def run_alone(self, holder: PinnedEndpoint, parts: RoundParts) -> str:
        """RunRound with a roster of this holder alone; the reason why it does not come to its end."""
        talk = self.run_round(holder, parts)
        try:
            talk.say(parts.submit(talk.ready()).step)
        except UsufructError as error:
            return error.reason
        return talk.error()

    def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels:
            channel.close()


@dataclass(frozen=True)
class RoundParts:
    """One round's attempt as the builder offers it."""

    builder: LocalAccount
    key: RoundKey
    weights: bytes
    offer: RoundOffer
    header: rounds_pb2.RoundHeader

    def submit(self, *roster: rounds_pb2.RosterMember, signer: LocalAccount | None = None) -> Submission:
        """The step that fixes this roster, and the view that it means."""
        view = RoundView(self.offer, tuple((member.dataset_id, member.mask_key) for member in roster))
        signature = sign_view(signer or self.builder, view.hash)
        return Submission(
            view, rounds_pb2.RoundStep(submit=rounds_pb2.Submit(roster=roster, view_signature=signature))
        )


@dataclass(frozen=True)
class Submission:
    """A roster, as it is signed and sent."""

    view: RoundView
    step: rounds_pb2.RoundStep


class RoundTalk:
    """One RunRound stream of a builder, which says what it likes when it likes."""

    def __init__(self, channel: grpc.Channel, parts: RoundParts) -> None:
        self._parts, self._said = parts, 0
        self._steps: SimpleQueue[bytes | None] = SimpleQueue()
        call: Any = channel.stream_stream(RUN_ROUND)  # type: ignore[attr-defined]
        self._call = call(self._messages(), timeout=120)

    def _messages(self) -> Iterator[bytes]:
        yield from with_header(self._parts.header, self._parts.key.public_key_bytes, self._parts.weights)
        while (step := self._steps.get()) is not None:
            yield step

    def say(self, step: rounds_pb2.RoundStep | bytes) -> None:
        """Sends one message."""
        self._steps.put(step if isinstance(step, bytes) else step.SerializeToString())

    def end(self) -> None:
        """Says nothing any more; the holder may still answer."""
        self._steps.put(None)

    def hang_up(self) -> None:
        """The stream breaks."""
        self.end()
        self._call.cancel()

    def next(self) -> rounds_pb2.RoundEvent:
        """The next event; errors are ours, and so is the end of the stream."""
        with rpc_errors():
            return rounds_pb2.RoundEvent.FromString(next(self._call))

    def until(self, state: int) -> rounds_pb2.RoundEvent:
        """The event of this state; those before it have come in their order."""
        while True:
            event = self.next()
            self._said += 1
            assert event.state == self._said, rounds_pb2.RoundState.Name(event.state)
            if self._said == state:
                return event

    def ready(self) -> rounds_pb2.RosterMember:
        """Waits for READY; the member that the holder then is."""
        event = self.until(rounds_pb2.ROUND_STATE_READY)
        return member(self._parts.header.dataset_id, event.mask_key, event.ready_signature)

    def error(self) -> str:
        """The reason with which the stream ends; what comes before it does not matter."""
        with pytest.raises(UsufructError) as caught:
            list(self.rest())
        return caught.value.reason

    def rest(self) -> Iterator[rounds_pb2.RoundEvent]:
        """What else comes."""
        with rpc_errors():
            yield from map(rounds_pb2.RoundEvent.FromString, self._call)


def member(dataset_id: int, mask_key: bytes, ready_signature: bytes) -> rounds_pb2.RosterMember:
    """One holder of a roster."""
    return rounds_pb2.RosterMember(dataset_id=dataset_id, mask_key=mask_key, ready_signature=ready_signature)


def round_parts(
    builder: LocalAccount, spec: TrainingJobSpec, dataset_id: int, round_: int = 1, attempt: int = 1,
    weights: bytes | None = None, key: RoundKey | None = None,
) -> RoundParts:  # fmt: skip
    """Key, weights, offer and signed header of an attempt."""
    key = key or RoundKey.generate(DEFAULT_PARAMETERS)
    weights = graph.pack_vector(MODEL, np.zeros(WIDTH + 1, dtype=np.float32)) if weights is None else weights
    digests = hashlib.sha256(key.public_key_bytes).digest(), hashlib.sha256(weights).digest()
    offer = RoundOffer(spec.job_id, spec_hash(spec_to_bytes(spec)), round_, attempt, *digests)
    header = rounds_pb2.RoundHeader(
        job_id=spec.job_id, dataset_id=dataset_id, round=round_, attempt=attempt,
        public_key_bytes=len(key.public_key_bytes), public_key_digest=digests[0], weights_bytes=len(weights),
        weights_digest=digests[1], offer_signature=sign_offer(builder, offer.hash),
    )  # fmt: skip
    return RoundParts(builder, key, weights, offer, header)


def to_sum(spec: TrainingJobSpec, view: RoundView) -> RoundToSum:
    """What an aggregator sums under this view."""
    return RoundToSum(
        spec.job_id, view.offer.round, view.offer.attempt, view.hash,
        {number: spec.leg(number).operator for number in view.datasets}, WIDTH + 1, DEFAULT_PARAMETERS,
    )  # fmt: skip


def local_plan(plan: TrainingPlan, order: int) -> LocalPlan:
    """The accountant's plan, written out here a second time on purpose."""
    return LocalPlan(
        plan.sample_rate_nano / 1e9, plan.max_grad_norm_micro / 1e6, plan.noise_multiplier_micro / 1e6, plan.local_steps,
        plan.rounds, plan.spare_attempts, plan.micro_batch_size, 60, order, plan.delta_pico / 1e12,
    )  # fmt: skip


def registered(config: HolderConfig) -> int:
    """The one dataset's number."""
    (dataset_id,) = json.loads(config.registration_path.read_text())["datasets"].values()
    return int(dataset_id)


def _aggregator(aggregator: PinnedEndpoint | None) -> tuple[str, bytes]:
    return (aggregator.endpoint, aggregator.fingerprint) if aggregator else ("127.0.0.1:1", bytes(32))


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
