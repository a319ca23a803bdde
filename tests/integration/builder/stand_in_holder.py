"""A holder without data: real transport, key, encryption and upload, but the update is what the test says."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from eth_account import Account

from usufruct.domain.round_view import RoundView
from usufruct.domain.training_job import NANO, TrainingJobSpec
from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.update import encrypt_update
from usufruct.errors import Refused, UsufructError
from usufruct.privacy import round_update
from usufruct.v1 import auth_pb2_grpc, rounds_pb2
from usufruct.wire import jobs
from usufruct.wire.aggregation import send_upload
from usufruct.wire.auth import Authenticator, AuthService
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.raw import ROUND_SERVICE, IncomingStream, add_raw_methods
from usufruct.wire.signatures import verify_view
from usufruct.wire.status import ErrorInterceptor
from usufruct.wire.tls import SERVER_OPTIONS, generate_identity, start_server

import grpc  # isort: skip  (after usufruct, which settles the TLS version first)


class StandInHolder:
    """Serves RunRound for one dataset.

    Attributes:
        update: float64 [parameters], already weighted; what the holder contributes.
        refusal: raised instead, after the charge.
        refusals_left: how often; -1 for always.
        operator: signs uploads.
        not_yet: how often it still says, before the charge, that it sees too few legs accepted.
        seen: (attempt, view hash, weights) of every round that was asked for.
        attempts: by job id, the attempts that were asked for.
    """

    def __init__(self, dataset_id: int) -> None:
        self.dataset_id, self.operator = dataset_id, Account.create()
        self.signer = self.operator
        self.update = np.zeros(0)
        self.refusal: UsufructError | None = None
        self.refusals_left = -1
        self.not_yet = 0
        self.silent = False
        self.seen: list[tuple[int, bytes, bytes]] = []
        self.attempts: dict[bytes, set[int]] = {}
        self.outbox: dict[tuple[int, bytes], bytes] = {}
        self.spec: TrainingJobSpec | None = None
        identity = generate_identity()
        self._server = grpc.server(
            ThreadPoolExecutor(8), interceptors=[ErrorInterceptor()], options=list(SERVER_OPTIONS)
        )
        self.authenticator = Authenticator(identity.fingerprint)
        self.add_services(self._server)
        port = start_server(self._server, identity, "127.0.0.1:0")
        self.peer = PinnedEndpoint(f"127.0.0.1:{port}", identity.fingerprint)

    def add_services(self, server: grpc.Server) -> None:
        """What it serves."""
        auth_pb2_grpc.add_AuthServiceServicer_to_server(AuthService(self.authenticator), server)
        add_raw_methods(server, ROUND_SERVICE, stream_stream={"RunRound": self._run_round})

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _run_round(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        assert self.spec is not None
        spec = self.spec
        assert self.authenticator.authenticate(context) == spec.builder
        stream = IncomingStream(messages)
        header = stream.header(rounds_pb2.RoundHeader)
        key = stream.read(header.public_key_bytes, 1 << 20)
        weights = stream.read(header.weights_bytes, 1 << 20)
        view = RoundView(
            spec.job_id, jobs.spec_hash(jobs.spec_to_bytes(spec)), header.round, header.attempt,
            header.public_key_digest, header.weights_digest, tuple(header.roster),
        )  # fmt: skip
        verify_view(view.hash, header.view_signature, spec.builder)
        if self.not_yet:
            self.not_yet -= 1
            raise Refused(reason="TOO_FEW_ACCEPTED")
        self.seen.append((header.attempt, view.hash, weights))
        self.attempts.setdefault(spec.job_id, set()).add(header.attempt)
        charged = rounds_pb2.RoundEvent(
            state=rounds_pb2.ROUND_STATE_CHARGED, view_hash=view.hash, attempts_charged=header.attempt
        )
        yield charged.SerializeToString()
        if self.refusal is not None and self.refusals_left:
            self.refusals_left -= 1
            raise self.refusal
        if self.silent:
            self.wait_for_hang_up(context)
        if (header.attempt, view.hash) not in self.outbox:
            codes = round_update(self.update, spec.encryption.update_range_nano / NANO)
            self.outbox[header.attempt, view.hash] = encrypt_update(DEFAULT_PARAMETERS, key, codes)
        upload = self.outbox[header.attempt, view.hash]
        send_upload(
            PinnedEndpoint(spec.aggregator.endpoint, spec.aggregator.fingerprint), self.signer, job_id=spec.job_id,
            round=header.round, attempt=header.attempt, dataset_id=self.dataset_id, view_hash=view.hash,
            operators={number: spec.leg(number).operator for number in view.roster}, upload=upload,
        )  # fmt: skip
        submitted = rounds_pb2.RoundEvent(
            state=rounds_pb2.ROUND_STATE_SUBMITTED, view_hash=view.hash, attempts_charged=header.attempt,
            upload_digest=hashlib.sha256(upload).digest(), upload_bytes=len(upload),
        )  # fmt: skip
        yield submitted.SerializeToString()

    @staticmethod
    def wait_for_hang_up(context: grpc.ServicerContext) -> None:
        """Says nothing more until the caller hangs up."""
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait()
        context.cancel()
