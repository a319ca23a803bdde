"""The network of this folder: its hospitals, the relay in front of one of them, and what stands in the holders' books."""

from __future__ import annotations

import hashlib
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

import usufruct as uf
from usufruct import graph
from usufruct.builder import JobHandle, Network
from usufruct.builder.attempt import Attempt
from usufruct.builder.peers import HolderPeer
from usufruct.builder.quote import Quote
from usufruct.builder.results import RoundResult
from usufruct.builder.round_stream import Steps
from usufruct.chain import ENDED, HANDED_IN
from usufruct.chain.rpc import Rpc
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.round_view import RoundOffer
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.domain.usage_record import UsageKind, UsageRecord
from usufruct.encryption import parameter_set
from usufruct.encryption.keys import RoundKey
from usufruct.errors import UsufructError
from usufruct.v1 import jobs_pb2, jobs_pb2_grpc
from usufruct.wire.auth import authenticated_channel
from usufruct.wire.channel import PinnedEndpoint, pinned_channel
from usufruct.wire.jobs import spec_hash, spec_to_bytes
from usufruct.wire.status import rpc_errors
from usufruct.wire.usage import record_from_bytes
from usufruct_server.demo.network import DatasetSetup, HolderSetup, LocalNetwork
from usufruct_server.holder.ledger import LedgerReader
from usufruct_server.holder.ledger import LegState as BookState

HOSPITALS = ("hospital-1", "hospital-2", "hospital-3")
"""Serve the datasets 1, 2 and 3; grant at once; at least three holders in a sum."""
CAREFUL = "careful"
"""Serves datasets 4 and 5; a person decides; alone is enough."""
TRIO = (1, 2, 3)
ALONE, TWO_ROWS_OF_ONE_PERSON = 4, 5
GRANT_TERM_SECONDS = 3600
"""Of the first hospital's grants; the others' are long."""
PRICE_UNITS = 1000
LOSS = "binary_cross_entropy_with_logits"
WIDTH, ROWS = 4, 40
FOLLOWED_SECONDS = 60.0
"""Holders look at their legs on chain every ten seconds."""


# -- hospitals --------------------------------------------------------------------------------------------------------


def dataset(number: int, *, persons: int = ROWS, min_cohort: int = 3) -> DatasetSetup:
    """Made-up rows of four numbers; fewer persons than rows gives somebody two."""
    card = DatasetCard(
        name=f"Made-up measurements {number}",
        task="sign of a sum",
        description="",
        columns=tuple(Column(f"x{i}", "number", -1.0, 1.0) for i in range(WIDTH)),
        label=Label("y", (("0",), ("1",))),
        person_column="patient",
        nominal_size=ROWS,
    )
    drawn = random.Random(number)
    rows = []
    for row in range(ROWS):
        values = [round(drawn.uniform(-1, 1), 3) for _ in range(WIDTH)]
        named = {f"x{i}": str(value) for i, value in enumerate(values)}
        rows.append({**named, "y": str(int(sum(values) > 0)), "patient": f"patient-{row % persons}"})
    return DatasetSetup(card, tuple(rows), PRICE_UNITS, min_cohort, budget_epsilon=60.0)


def holders(relay: Relay) -> tuple[HolderSetup, ...]:
    """The four hospitals; builders reach the second one at the relay."""
    grants = {"auto_grant": True, "unknown_builders": "grant"}
    return (
        HolderSetup(HOSPITALS[0], [dataset(1)], {**grants, "grant_term_seconds": GRANT_TERM_SECONDS}),
        HolderSetup(HOSPITALS[1], [dataset(2)], grants, {"holder": {"endpoint": relay.endpoint}}),
        HolderSetup(HOSPITALS[2], [dataset(3)], grants),
        HolderSetup(
            CAREFUL,
            [dataset(4, min_cohort=1), dataset(5, persons=ROWS - 1, min_cohort=1)],
            {"auto_grant": False, "noise_modes": ["local"]},
        ),
    )


def port_of(endpoint: str) -> int:
    """Port of ``host:port``."""
    return int(endpoint.rpartition(":")[2])


class Relay:
    """A plain TCP relay on loopback, as a holder behind a firewall would have one.

    Attributes:
        target_port: where new connections lead; may change.
        connections, sent: how many there were, and bytes from clients, so far.
        spoil_after: flips one bit of the first connection on which a client has sent more bytes than this; then None.
    """

    def __init__(self, target_port: int = 0) -> None:
        self.target_port, self.connections, self.sent = target_port, 0, 0
        self.spoil_after: int | None = None
        self.spoilt = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends listening and every connection."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Ends every connection; new ones go to the present target."""
        with self._guard:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                continue
            with self._guard:
                self._open |= {client, server}
                self.connections += 1
            threading.Thread(target=self._join, args=(client, server), daemon=True).start()

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        """Pumps both ways. Neither socket is closed, and its number free for another connection, before both are done."""
        with client, server:
            back = threading.Thread(target=self._pump, args=(server, client, False), daemon=True)
            back.start()
            self._pump(client, server, True)
            back.join()
            with self._guard:
                self._open -= {client, server}

    def _pump(self, source: socket.socket, drain: socket.socket, counted: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                passed += len(data)
                if counted:
                    data = self._count(data, passed)
                drain.sendall(data)
        for each in (source, drain):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _count(self, data: bytes, passed: int) -> bytes:
        with self._guard:
            self.sent += len(data)
            if self.spoil_after is None or passed <= self.spoil_after:
                return data
            self.spoil_after = None
        self.spoilt.set()
        return data[:-1] + bytes([data[-1] ^ 1])


# -- the whole --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clinics:
    """The running network, and two builders: the first has money, the second has none.

    Attributes:
        relay: in front of the second hospital.
        at: by dataset number, where the chain says that its holder is.
    """

    local: LocalNetwork
    relay: Relay
    first: Network
    second: Network
    at: Mapping[int, PinnedEndpoint]

    def holder(self, dataset_id: int, builder: Network | None = None) -> HolderPeer:
        """The dataset's holder, as a builder reaches it. Close it."""
        return HolderPeer(dataset_id, self.at[dataset_id], (builder or self.first).account)

    def propose(
        self, spec: TrainingJobSpec, dataset_id: int, builder: Network | None = None
    ) -> jobs_pb2.Proposal:
        """Proposes a spec to one holder, past every check of the SDK."""
        at, account = self.at[dataset_id], (builder or self.first).account
        request = jobs_pb2.ProposeJobRequest(
            request_id=secrets.token_hex(16), dataset_id=dataset_id, spec=spec_to_bytes(spec)
        )
        with pinned_channel(at.endpoint, at.fingerprint) as channel, rpc_errors(at.endpoint):
            proved = authenticated_channel(channel, account, at.fingerprint)
            stub: Any = jobs_pb2_grpc.JobServiceStub(proved)  # type: ignore[no-untyped-call]
            proposal: jobs_pb2.Proposal = stub.ProposeJob(request, timeout=60)
        return proposal

    def start(self, spec: TrainingJobSpec, dataset_id: int, builder: Network | None = None) -> jobs_pb2.Leg:
        """Asks one holder to take up its leg."""
        peer = self.holder(dataset_id, builder)
        try:
            return peer.start_leg(spec.job_id).leg
        finally:
            peer.close()

    def run_round(self, spec: TrainingJobSpec, builder: Network, round_: int = 1, attempt: int = 9) -> None:
        """A round offered to the first hospital, well formed and signed by this builder."""
        key = RoundKey.generate(parameter_set(spec.encryption.parameters))
        traced = graph.trace(model(), (WIDTH,))
        weights = graph.pack_vector(traced.graph, graph.vector_from_model(model(), traced))
        digests = hashlib.sha256(key.public_key_bytes).digest(), hashlib.sha256(weights).digest()
        offer = RoundOffer(spec.job_id, spec_hash(spec_to_bytes(spec)), round_, attempt, *digests)
        offered = Attempt(offer, key, weights, builder.account)
        peer, deadline = self.holder(1, builder), time.monotonic() + 30
        try:
            peer.run_round(
                offered.header(1), key.public_key_bytes, weights, Steps(), lambda event: None, deadline
            )
        finally:
            peer.close()

    def train(self, datasets: tuple[int, ...] = TRIO, **options: Any) -> JobHandle:
        """A small job of the first builder, opened."""
        return self.first.train(model(), self.first.datasets(ids=datasets), **self.settings(**options))

    def settings(self, **options: Any) -> dict[str, Any]:
        """What every job here has in common."""
        return {
            "aggregator": self.local.aggregator,
            "loss": LOSS,
            "optimizer": uf.SGD(lr=0.5),
            "privacy": uf.Privacy(epsilon=4.0, noise="local"),
            "rounds": 2,
            "purpose": "Test the network",
            **options,
        }

    def rpc(self) -> Rpc:
        """The development chain, for what only a test may ask of it."""
        return Rpc(self.local.rpc_url, 10.0)

    # -- books ----------------------------------------------------------------------------------------------------

    def ledger(self, name: str) -> LedgerReader:
        """A holder's ledger, read beside the running server. Close it."""
        return LedgerReader(self.local.places[name].directory / "state" / "ledger.sqlite")

    def records(self, name: str) -> list[UsageRecord]:
        """A holder's usage records."""
        with self.ledger(name) as book:
            return [record_from_bytes(data) for data in book.usage_records(0, 10_000)]

    def until_followed(self) -> None:
        """Waits until every holder's ledger has closed the legs that are delivered or ended at a final block."""
        deadline, turn = time.monotonic() + FOLLOWED_SECONDS, threading.Event()
        while behind := [name for name in self.local.places if self._follows_still(name)]:
            assert time.monotonic() < deadline, f"{behind} do not follow the chain"
            turn.wait(0.2)

    def _follows_still(self, name: str) -> bool:
        with self.ledger(name) as book:
            reserved = [leg for leg in book.jobs() if leg.state is BookState.RESERVED]
        entries = (self.first.chain.leg(leg.job_id, leg.dataset_id) for leg in reserved)
        return any(entry is not None and entry.state in HANDED_IN | ENDED for entry in entries)

    @contextmanager
    def nothing_used(self, *, chain: bool = True) -> Iterator[list[tuple[str, str, str]]]:
        """What happens inside must leave every ledger, budget and deposit as it was.

        Args:
            chain: whether there still is one to look at.
        Yields:
            A list; afterwards: (holder, kind, reason) of every usage record that was written meanwhile.
        """
        logged: list[tuple[str, str, str]] = []
        if chain:
            self.until_followed()
        before, counts = self._state(chain), {name: len(self.records(name)) for name in self.local.places}
        yield logged
        assert self._state(chain) == before
        for name, count in counts.items():
            fresh = self.records(name)[count:]
            assert all(record.kind is not UsageKind.CHARGED for record in fresh)
            logged += [(name, record.kind.name, record.reason) for record in fresh]

    def _state(self, chain: bool) -> list[Any]:
        state: list[Any] = []
        for name in self.local.places:
            with self.ledger(name) as book:
                state.append((name, book.head(), book.datasets()))
        if chain:
            state += [(d.dataset_id, d.reserved_micro, d.spent_micro) for d in self.first.chain.datasets()]
            for builder in (self.first, self.second):
                balance = builder.balance()
                state += [balance.deposits, balance.wallet]
        return state


@dataclass(frozen=True)
class Finished:
    """A job that ran to its end, with what was said on the way."""

    quote: Quote
    epsilon_asked: float
    results: tuple[RoundResult, ...]
    job: JobHandle


def model() -> nn.Module:
    """The smallest classifier."""
    torch.manual_seed(0)
    return nn.Linear(WIDTH, 1)


def anew(spec: TrainingJobSpec, **changes: Any) -> TrainingJobSpec:
    """The same job under a new number, with other fields."""
    return replace(spec, nonce=secrets.token_bytes(32), **changes)


def reason_of(call: Callable[..., object], *arguments: Any) -> str:
    """The catalogue reason that the call fails with."""
    with pytest.raises(UsufructError) as caught:
        call(*arguments)
    return caught.value.reason


def usufruct(*arguments: str, timeout_seconds: float = 90) -> subprocess.CompletedProcess[str]:
    """Runs a command, as a person would at a terminal."""
    command = [sys.executable, "-m", "usufruct.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds)
