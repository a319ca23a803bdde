"""A holder without data: real transport, signatures, masks, encryption, upload and check, but the update is what the test
says. What it says and sends can be changed, so that it lies as a real one could."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from eth_account import Account
from eth_account.signers.local import LocalAccount

from usufruct.domain.round_view import RoundOffer, RoundView
from usufruct.domain.training_job import NANO, NoiseMode, TrainingJobSpec
from usufruct.encryption import parameter_set
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.linear_check import Challenge, check_value
from usufruct.encryption.masks import MaskKey
from usufruct.encryption.update import write_upload
from usufruct.encryption.zero_worker import zeros_made_here
from usufruct.errors import Refused, RoundFailed, UsufructError
from usufruct.privacy import distributed_plan_of, noised_share, round_update, table_for, value_count
from usufruct.v1 import auth_pb2_grpc, rounds_pb2
from usufruct.wire import jobs
from usufruct.wire.aggregation import HolderAggregation, RoundToSum
from usufruct.wire.auth import Authenticator, AuthService
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.parsing import parse
from usufruct.wire.raw import ROUND_SERVICE, STEP_LIMIT_BYTES, IncomingStream, add_raw_methods
from usufruct.wire.signatures import (
    sign_check,
    sign_ready,
    verify_offer,
    verify_ready,
    verify_uploads,
    verify_view,
)
from usufruct.wire.status import ErrorInterceptor
from usufruct.wire.tls import SERVER_OPTIONS, TlsIdentity, generate_identity, start_server

import grpc  # isort: skip  (after usufruct, which settles the TLS version first)

LIMIT = 1 << 24


@dataclass(frozen=True)
class Seat:
    """A holder as the others know it: its key, its TLS identity, and where it listens."""

    operator: LocalAccount = field(default_factory=Account.create)
    identity: TlsIdentity = field(default_factory=generate_identity)
    listen: str = "127.0.0.1:0"


@dataclass
class Kept:
    """What it has of one attempt, also when the builder asks again."""

    offer: RoundOffer
    mask: MaskKey
    view: RoundView | None = None
    commitment: Commitment | None = None
    challenge: Challenge | None = None


class StandInHolder:
    """Serves RunRound for one dataset.

    Attributes:
        update: float64 [parameters]; what the holder contributes: an update, already weighted, or with distributed noise a
            clipped sum, which gets its share of noise here.
        refusal: raised instead, after the charge.
        refusals_left: how often; -1 for always.
        operator: whose address is in the spec.
        signer: signs uploads.
        not_yet: how often it still says, before the charge, that it sees too few legs accepted.
        silent: says nothing after the charge until the caller hangs up.
        trained: is waited for between charge and READY.
        says: changes each event before it is said.
        sends: changes the encrypted update in its file before it is committed to and sent.
        seen: (attempt, offer hash, weights) of every round that was asked for.
        views, challenges: of every Submit and Check that came.
        attempts: by job id, the attempts that were asked for.
        outbox: by attempt and view, the encrypted update.
    """

    def __init__(self, dataset_id: int, seat: Seat | None = None) -> None:
        seat = seat or Seat()
        self.dataset_id, self.operator = dataset_id, seat.operator
        self.signer = self.operator
        self.update = np.zeros(0)
        self.refusal: UsufructError | None = None
        self.refusals_left = -1
        self.not_yet = 0
        self.silent = False
        self.trained = threading.Event()
        self.trained.set()
        self.says: Callable[[rounds_pb2.RoundEvent], object] = lambda event: None
        self.sends: Callable[[Path], object] = lambda path: None
        self.seen: list[tuple[int, bytes, bytes]] = []
        self.views: list[RoundView] = []
        self.challenges: list[Challenge] = []
        self.attempts: dict[bytes, set[int]] = {}
        self.outbox: dict[tuple[int, bytes], bytes] = {}
        self.spec: TrainingJobSpec | None = None
        self._kept: dict[tuple[bytes, int], Kept] = {}
        self._files = tempfile.TemporaryDirectory()
        self._server = grpc.server(
            ThreadPoolExecutor(8), interceptors=[ErrorInterceptor()], options=list(SERVER_OPTIONS)
        )
        self.authenticator = Authenticator(seat.identity.fingerprint)
        self.add_services(self._server)
        port = start_server(self._server, seat.identity, seat.listen)
        self.peer = PinnedEndpoint(f"127.0.0.1:{port}", seat.identity.fingerprint)

    def add_services(self, server: grpc.Server) -> None:
        """What it serves."""
        auth_pb2_grpc.add_AuthServiceServicer_to_server(AuthService(self.authenticator), server)
        add_raw_methods(server, ROUND_SERVICE, stream_stream={"RunRound": self._run_round})

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._files.cleanup()

    # -- a round ----------------------------------------------------------------------------------------------------

    def _run_round(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        assert self.spec is not None
        spec = self.spec
        assert self.authenticator.authenticate(context) == spec.builder
        stream = IncomingStream(messages)
        header = stream.header(rounds_pb2.RoundHeader)
        key = stream.read(header.public_key_bytes, LIMIT)
        weights = stream.read(header.weights_bytes, LIMIT)
        offer = RoundOffer(
            spec.job_id, jobs.spec_hash(jobs.spec_to_bytes(spec)), header.round, header.attempt,
            header.public_key_digest, header.weights_digest,
        )  # fmt: skip
        verify_offer(offer.hash, header.offer_signature, spec.builder)
        if self.not_yet:
            self.not_yet -= 1
            raise Refused(reason="TOO_FEW_ACCEPTED")
        self.seen.append((header.attempt, offer.hash, weights))
        self.attempts.setdefault(spec.job_id, set()).add(header.attempt)
        charged = len(self.attempts[spec.job_id])

        def event(state: int, **fields: object) -> bytes:
            said = rounds_pb2.RoundEvent(
                state=state, attempts_charged=charged, offer_hash=offer.hash, **fields
            )
            self.says(said)
            return said.SerializeToString()

        yield event(rounds_pb2.ROUND_STATE_CHARGED)
        if self.refusal is not None and self.refusals_left:
            self.refusals_left -= 1
            raise self.refusal
        if self.silent:
            self.wait_for_hang_up(context)
        self.trained.wait()
        kept = self._kept.setdefault(
            (spec.job_id, header.attempt), Kept(offer, MaskKey(spec.job_id, self.dataset_id))
        )
        if kept.offer != offer:
            raise RoundFailed(reason="ROUND_VIEW_CHANGED")
        mask_key = kept.mask.public_bytes
        ready = sign_ready(self.operator, offer.hash, self.dataset_id, mask_key)
        yield event(rounds_pb2.ROUND_STATE_READY, mask_key=mask_key, ready_signature=ready)
        submit = parse(rounds_pb2.RoundStep, stream.message(STEP_LIMIT_BYTES), STEP_LIMIT_BYTES).submit
        view = self._checked_view(spec, kept, submit)
        to_sum = RoundToSum(
            spec.job_id, header.round, header.attempt, view.hash,
            {number: spec.leg(number).operator for number in view.datasets},
            value_count(spec), parameter_set(spec.encryption.parameters),
        )  # fmt: skip
        path = Path(self._files.name) / f"{spec.job_id.hex()}-{header.attempt}"
        commitment = self._encrypted(kept, to_sum, view, key, path)
        facts = {
            "view_hash": view.hash,
            "upload_root": commitment.root,
            "upload_bytes": path.stat().st_size,
        }
        yield event(rounds_pb2.ROUND_STATE_ENCRYPTED, **facts)
        at = PinnedEndpoint(spec.aggregator.endpoint, spec.aggregator.fingerprint)
        with HolderAggregation(at, self.signer) as aggregation:
            aggregation.send_upload(to_sum, self.dataset_id, path, commitment)
        yield event(rounds_pb2.ROUND_STATE_SUBMITTED, **facts)
        check = parse(rounds_pb2.RoundStep, stream.message(STEP_LIMIT_BYTES), STEP_LIMIT_BYTES).check
        challenge = Challenge(check.seed, view.hash, check.sum_root)
        self.challenges.append(challenge)
        if kept.challenge not in (None, challenge):
            raise RoundFailed(reason="CHECK_CHANGED")
        kept.challenge = challenge
        assert verify_uploads(check.uploads, **to_sum.names)[self.dataset_id] == commitment.root
        with path.open("rb") as file:
            values = check_value(challenge, to_sum.uploads, to_sum.uploads.read(file))
        signature = sign_check(
            self.operator, view_hash=view.hash, sum_root=check.sum_root, seed=check.seed,
            dataset_id=self.dataset_id, values=values,
        )  # fmt: skip
        yield event(rounds_pb2.ROUND_STATE_CHECKED, check_values=values, check_signature=signature, **facts)

    def _checked_view(self, spec: TrainingJobSpec, kept: Kept, submit: rounds_pb2.Submit) -> RoundView:
        view = RoundView(kept.offer, tuple((member.dataset_id, member.mask_key) for member in submit.roster))
        verify_view(view.hash, submit.view_signature, spec.builder)
        for member in submit.roster:
            operator = spec.leg(member.dataset_id).operator
            verify_ready(
                kept.offer.hash, member.dataset_id, member.mask_key, member.ready_signature, operator
            )
        assert view.mask_keys[self.dataset_id] == kept.mask.public_bytes
        assert len(view.datasets) >= spec.min_cohort
        self.views.append(view)
        if kept.view not in (None, view):
            raise RoundFailed(reason="ROUND_VIEW_CHANGED")
        kept.view = view
        return view

    def _encrypted(
        self, kept: Kept, to_sum: RoundToSum, view: RoundView, key: bytes, path: Path
    ) -> Commitment:
        """Encrypts once for the view; afterwards it is as it was."""
        assert self.spec is not None
        if kept.commitment is None:
            parameters = to_sum.parameters
            codes = self._integers(kept.offer)
            masks = None
            if len(view.datasets) > 1:
                masks = kept.mask.masks(parameters, view.hash, view.mask_keys)
            zeros = zeros_made_here(parameters, key)
            with path.open("wb") as file:
                write_upload(
                    parameters, codes.size, zeros, masks, lambda start, stop: codes[start:stop], file
                )
            self.sends(path)
            self.outbox[kept.offer.attempt, view.hash] = path.read_bytes()
            with path.open("rb") as file:
                kept.commitment = Commitment.over(to_sum.uploads, to_sum.uploads.read(file))
        return kept.commitment

    def _integers(self, offer: RoundOffer) -> np.ndarray:
        """The update as a holder's trainer would send it."""
        assert self.spec is not None
        encryption = self.spec.encryption
        if self.spec.plan.noise_mode is NoiseMode.DISTRIBUTED:
            plan = distributed_plan_of(self.spec, self.dataset_id)
            return noised_share(self.update, plan, table_for(plan), offer.rotation_seed)
        return round_update(self.update, encryption.update_range_nano / NANO, encryption.value_bits)

    @staticmethod
    def wait_for_hang_up(context: grpc.ServicerContext) -> None:
        """Says nothing more until the caller hangs up."""
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait()
        context.cancel()
