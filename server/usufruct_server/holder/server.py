"""Wires the holder's parts together and serves them over gRPC until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, cast

import grpc
from eth_account.signers.local import LocalAccount
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from usufruct.chain import Chain, Sender
from usufruct.errors import ConfigError
from usufruct.v1 import (
    auth_pb2,
    auth_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    rounds_pb2,
    rounds_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from usufruct.wire.auth import Authenticator, AuthService
from usufruct.wire.raw import ROUND_SERVICE, add_raw_methods
from usufruct.wire.status import ErrorInterceptor
from usufruct.wire.tls import SERVER_OPTIONS, TlsIdentity, load_identity, require_free, start_server
from usufruct_server.holder.base_models import BaseModels
from usufruct_server.holder.catalogue import ServedDataset, load_catalogue
from usufruct_server.holder.config import HolderConfig
from usufruct_server.holder.data_check import DataFinding, look_at_data
from usufruct_server.holder.fencing import take_over
from usufruct_server.holder.following import Following
from usufruct_server.holder.housekeeping import Housekeeping
from usufruct_server.holder.job_store import JobStore
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.legs import Legs
from usufruct_server.holder.opening import known_registration, open_chain, registration_problems
from usufruct_server.holder.proposals import Proposals
from usufruct_server.holder.publisher import Publisher
from usufruct_server.holder.record_calls import RecordCalls
from usufruct_server.holder.rounds import RoundRunner
from usufruct_server.holder.services.catalogue import CatalogueService
from usufruct_server.holder.services.jobs import JobService
from usufruct_server.holder.services.rounds import RoundService
from usufruct_server.holder.services.usage import UsageService
from usufruct_server.holder.settlement import Settlement
from usufruct_server.holder.statements import Statements
from usufruct_server.holder.tokenizer_folder import TokenizerFolder
from usufruct_server.holder.trainers import Trainers
from usufruct_server.holder.training.zygote import Zygote
from usufruct_server.holder.usage_log import UsageLog
from usufruct_server.holder.witness import Witness

WORKERS = 64
"""Calls that are answered at a time; further ones wait in gRPC, and above twice as many are turned away."""
LOOKS = 4
"""Datasets whose data are looked at together when a server starts."""
STOP_SECONDS = 20.0
"""How long a stop waits for attempts that were charged to reach the outbox."""
_SERVICES = (
    auth_pb2.DESCRIPTOR.services_by_name["AuthService"].full_name,
    catalogue_pb2.DESCRIPTOR.services_by_name["CatalogueService"].full_name,
    jobs_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    rounds_pb2.DESCRIPTOR.services_by_name["RoundService"].full_name,
    usage_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name,
)

_log = logging.getLogger("usufruct.holder.server")


class HolderServer:
    """A data holder's server. ``start`` it, then ``stop`` it; or ``serve`` until a signal.

    Everything is checked before the port is opened: registration, card, data, ledger. It takes over from any other
    server of this holder.

    Args:
        tell: told in words what is waited for.
        zygote: forks the trainer children; None: one of this server's own.
    Raises (on construction):
        ConfigError: something of this holder is wrong; says what to do.
        ChainError: the chain cannot be reached, or is another one.
        LedgerError: the ledger is open elsewhere, does not verify, or is an older one than the chain knows.
    """

    def __init__(
        self, config: HolderConfig, operator: LocalAccount, tell: Callable[[str], None] = lambda text: None,
        zygote: Zygote | None = None,
    ) -> None:  # fmt: skip
        self.config, self.operator = config, str(operator.address)
        with ExitStack() as undo:
            self._build(config, operator, tell, zygote, undo)
            self._undo = undo.pop_all()

    def _build(
        self, config: HolderConfig, operator: LocalAccount, tell: Callable[[str], None], zygote: Zygote | None,
        undo: ExitStack,
    ) -> None:  # fmt: skip
        registration = known_registration(config)
        catalogue = load_catalogue(config, registration)
        self.identity: TlsIdentity = load_identity(config.tls_dir)
        if zygote is None:
            zygote = Zygote()
            undo.callback(zygote.close)
        trainers = Trainers(zygote, BaseModels(config.base_models), TokenizerFolder(config.tokenizers_dir))
        undo.callback(trainers.close)
        chain = open_chain(config)
        problems = registration_problems(
            config, chain, registration, catalogue, operator.address, self.identity.fingerprint
        )
        if problems:
            raise ConfigError(" ".join(problems))
        holder_id = registration.holder_id
        witness = Witness(config.witness_dir, f"{chain.chain_id} {chain.compute_access} {holder_id}")
        ledger = Ledger(config.ledger_path, noted=witness.note)
        undo.callback(ledger.close)
        store = JobStore(config.jobs_path)
        undo.callback(store.close)
        sender = Sender(chain, operator, config.outbox_path)
        undo.callback(sender.close)
        for served in catalogue.all():
            entry = chain.dataset(served.dataset_id)
            ledger.register_dataset(
                served.dataset_id, served.config.cap_micro, served.config.order, entry.reserved_micro + entry.spent_micro
            )  # fmt: skip
        require_free(config.listen)  # before the server that may be there is fenced out
        self.fencing = take_over(chain, sender, holder_id, ledger, witness, tell)
        self.trainers, self.ledger, self.store, self.catalogue = trainers, ledger, store, catalogue
        self._wire(config, operator, holder_id, chain, sender)
        self._look_at_data(zygote, TokenizerFolder(config.tokenizers_dir))
        self.rounds.recover()
        self.following.recover()
        self.proposals.act_on_decisions()

    def _wire(
        self, config: HolderConfig, operator: LocalAccount, holder_id: int, chain: Chain, sender: Sender
    ) -> None:
        ledger, store, catalogue, trainers = self.ledger, self.store, self.catalogue, self.trainers
        statements = Statements(operator, chain, self.fencing)
        self.publisher = Publisher(ledger=ledger, sender=sender, fencing=self.fencing, holder_id=holder_id)
        self.usage = usage = UsageLog(ledger, on_record=lambda: self.housekeeping.record_written())
        self.proposals = Proposals(
            store=store, ledger=ledger, usage=usage, chain=chain, catalogue=catalogue, policy=config.policy,
            holder_id=holder_id, statements=statements, appraise_graph=trainers.appraise_graph,
        )  # fmt: skip
        self.legs = Legs(
            store=store, ledger=ledger, chain=chain, catalogue=catalogue, trainers=trainers, policy=config.policy,
            statements=statements,
        )  # fmt: skip
        self.rounds = RoundRunner(
            store=store, ledger=ledger, usage=usage, legs=self.legs, trainers=trainers, operator=operator,
            policy=config.policy,
        )  # fmt: skip
        self.settlement = Settlement(
            store=store, ledger=ledger, usage=usage, publisher=self.publisher, chain=chain, statements=statements,
            legs=self.legs, rounds=self.rounds,
        )  # fmt: skip
        self.following = Following(
            store=store, ledger=ledger, chain=chain, sender=sender, legs=self.legs, rounds=self.rounds,
            settlement=self.settlement,
        )  # fmt: skip
        self.record_calls = RecordCalls(
            chain=chain, sender=sender, ledger=ledger, holder_id=holder_id, checkpoints=config.calls_path
        )
        self.housekeeping = Housekeeping(
            fencing=self.fencing, sender=sender, proposals=self.proposals, publisher=self.publisher,
            following=self.following, record_calls=self.record_calls,
        )  # fmt: skip
        authenticator = Authenticator(self.identity.fingerprint)
        self._server = grpc.server(
            ThreadPoolExecutor(WORKERS, thread_name_prefix="grpc"),
            interceptors=[ErrorInterceptor()],
            options=list(SERVER_OPTIONS),
            maximum_concurrent_rpcs=2 * WORKERS,
        )
        rounds = RoundService(authenticator=authenticator, rounds=self.rounds, store=store, usage=usage)
        cast(Any, auth_pb2_grpc).add_AuthServiceServicer_to_server(AuthService(authenticator), self._server)
        cast(Any, catalogue_pb2_grpc).add_CatalogueServiceServicer_to_server(
            CatalogueService(
                catalogue, holder_id=holder_id, chain_id=chain.chain_id, compute_access=chain.compute_access,
                noise_modes=config.policy.offered_modes,
            ),
            self._server,
        )  # fmt: skip
        cast(Any, jobs_pb2_grpc).add_JobServiceServicer_to_server(
            JobService(
                authenticator=authenticator, proposals=self.proposals, legs=self.legs, settlement=self.settlement,
                statements=statements, ledger=ledger, usage=usage,
            ),
            self._server,
        )  # fmt: skip
        add_raw_methods(self._server, ROUND_SERVICE, stream_stream={"RunRound": rounds.run_round})
        cast(Any, rounds_pb2_grpc).add_RoundServiceServicer_to_server(rounds, self._server)
        cast(Any, usage_pb2_grpc).add_UsageServiceServicer_to_server(UsageService(ledger), self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*_SERVICES, reflection.SERVICE_NAME, health.SERVICE_NAME), self._server
        )

    def _look_at_data(self, zygote: Zygote, tokenizers: TokenizerFolder) -> None:
        """Data that cannot be used are not served; the others are."""

        def look(served: ServedDataset) -> DataFinding:
            return look_at_data(zygote, served.card.card, served.config.data, tokenizers)

        with ThreadPoolExecutor(LOOKS, thread_name_prefix="look") as pool:
            datasets = self.catalogue.all()
            for served, finding in zip(datasets, pool.map(look, datasets), strict=True):
                self.catalogue.mark(served.dataset_id, finding.reason)
                if finding.reason:
                    _log.error(
                        "event=data_unfit dataset=%d reason=%s text=%r every_job_is_refused=true",
                        served.dataset_id, finding.reason, finding.message,
                    )  # fmt: skip

    def start(self) -> int:
        """Opens the port; returns it.

        Raises:
            ConfigError: PORT_IN_USE.
        """
        port = start_server(self._server, self.identity, self.config.listen)
        for service in ("", *_SERVICES):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self.housekeeping.start()
        _log.info("event=serving listen=%s datasets=%d", self.config.listen, len(self.catalogue.all()))
        return port

    def stop(self, grace_seconds: float = 2.0) -> None:
        """Takes no new calls, lets charged attempts reach the outbox, closes ledger and trainers."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_seconds).wait(grace_seconds + 5)
        self.rounds.close(STOP_SECONDS)
        self.housekeeping.close()
        self._undo.close()
        _log.info("event=stopped")

    def close(self) -> None:
        """Closes a server that was never started."""
        self._undo.close()


def serve(server: HolderServer, ready: Callable[[int], None]) -> None:
    """Serves until SIGTERM or SIGINT; then stops cleanly. Call it in the main thread."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    try:
        ready(server.start())
    except BaseException:
        server.close()
        raise
    asked.wait()
    server.stop()
