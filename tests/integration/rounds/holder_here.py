"""A data holder in this process: the real round components over a real ledger, job store and usage log on disk.

What is not real: the chain (a leg is accepted when the test says so), and the trainer, which answers fixed values through
the trainer's interface; neither is what these tests are about. It can be killed, which loses everything but its disk.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest import mock

import numpy as np
from eth_account import Account
from eth_account.signers.local import LocalAccount
from in_process import AggregatorHere, HolderSide, Wire
from numpy.typing import NDArray

from usufruct.domain import ids
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.encryption import parameter_set
from usufruct.encryption.zeros import ZeroPool
from usufruct.errors import Refused
from usufruct.v1 import rounds_pb2
from usufruct.wire import jobs
from usufruct.wire.parsing import parse
from usufruct.wire.raw import HEADER_LIMIT_BYTES
from usufruct_server.holder.catalogue import ServedDataset
from usufruct_server.holder.config import DatasetConfig, Policy
from usufruct_server.holder.job_store import JobStore
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.legs import GrantedJob, Legs
from usufruct_server.holder.rounds import Conversation, RoundRequest, RoundRunner, runner
from usufruct_server.holder.rounds.leg_pools import LegPools
from usufruct_server.holder.training.block import SharedBlock
from usufruct_server.holder.usage_log import UsageLog

FOREVER_SECONDS = 2_000_000_000


class Killed(BaseException):
    """The holder's process has ended here."""


class LegsHere(Legs):
    """Legs of one job, open and accepted on chain."""

    def __init__(self, store: JobStore, job: GrantedJob) -> None:
        super().__init__(
            store=store, ledger=None, chain=None, catalogue=None, trainers=None, policy=None, statements=None
        )  # type: ignore[arg-type]
        self._job = job

    def granted(self, caller: str, job_id: bytes, dataset_id: int) -> GrantedJob:
        if (caller, (job_id, dataset_id)) != (self._job.builder, self._job.key):
            raise Refused("there is no grant for this job", reason="GRANT_MISSING", dataset_id=dataset_id)
        return self._job

    def require_trainable(self, job: GrantedJob) -> None:
        """It is."""

    def require_epoch(self) -> None:
        """There is no other server."""


class PoolsHere(LegPools):
    """Makes encryptions of zero in this process, and reaches the aggregator in it."""

    def __init__(self, connection: Callable[[], HolderSide], operator: Any) -> None:
        super().__init__(operator)
        self._connection = connection

    def zeros(self, job: GrantedJob) -> ZeroPool:
        if job.key not in self._zeros:
            self._zeros[job.key] = ZeroPool(parameter_set(job.spec.encryption.parameters), workers=0)
        return self._zeros[job.key]

    def _aggregation(self, job: GrantedJob) -> HolderSide:
        return self._connection()


class HolderHere:
    """One holder.

    Args:
        values: what its trainer answers for an attempt's number, int32 [parameters].
    Attributes:
        doomed: where it will be killed, the next time it comes there; empty for nowhere.
        life: how often its process has been killed.
        draws: by attempt, how often its trainer was asked to train.
    """

    POINTS = (
        "charge:before", "charge:after", "train:before", "train:after", "view:before", "view:after", "upload:before",
        "upload:after", "send:before", "send:after", "record:before", "record:after",
    )  # fmt: skip

    def __init__(
        self,
        folder: Path,
        dataset_id: int,
        aggregator: AggregatorHere,
        values: Callable[[int], NDArray[np.int32]],
        min_cohort: int = 1,
    ) -> None:
        folder.mkdir()
        self.folder, self.dataset_id, self.values, self._aggregator = folder, dataset_id, values, aggregator
        self.is_run_by(Account.create())
        self._min_cohort = min_cohort
        self.doomed = ""
        self.draws: Counter[int] = Counter()
        self.streams: list[RoundStream] = []
        self.alive, self.life = False, 0
        self._threads: set[threading.Thread] = set()

    def is_run_by(self, operator: LocalAccount) -> None:
        """Its operator key, before it begins."""
        self.operator = operator
        self.wire = Wire(self._aggregator, operator.address)
        self.connection = HolderSide(self.wire, operator)

    def begin(self, spec: TrainingJobSpec) -> None:
        """Takes up its leg of a job."""
        config = DatasetConfig(
            Path(), Path(), self.dataset_id, 0, spec.legs[0].token, self._min_cohort, spec.legs[0].order, 10**9, 1e-5
        )  # fmt: skip
        served = ServedDataset(self.dataset_id, config, None, b"", None)  # type: ignore[arg-type]
        spec_hash = jobs.spec_hash(jobs.spec_to_bytes(spec))
        self.job = GrantedJob(spec, spec_hash, spec.builder, FOREVER_SECONDS, bytes(32), served)
        self.start()
        terms = spec.leg(self.dataset_id)
        self.ledger.register_dataset(self.dataset_id, 10**9, terms.order)
        self.ledger.reserve(
            self.dataset_id, spec.job_id, terms.loss_per_attempt_micro, spec.plan.attempts, spec_hash
        )
        self.store.start_leg(spec.job_id, self.dataset_id, 1)

    # -- its process --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts its process, as the server does: opens what is on the disk and settles what was cut off."""
        for thread in list(self._threads):  # of the process before: they have nothing to write to
            thread.join(10)
        self.alive, self.doomed = True, ""
        here = partial(self._on_reaching, self.life)
        self.ledger = DoomedLedger(self.folder / "ledger.sqlite")
        self.store = DoomedStore(self.folder / "jobs.sqlite")
        self.usage = DoomedUsage(self.ledger)
        self.ledger.reaching = self.store.reaching = self.usage.reaching = here
        connection = SendingHere(self.connection, here)
        with mock.patch.object(runner, "LegPools", partial(PoolsHere, lambda: connection)):
            self.rounds = RoundRunner(
                store=self.store, ledger=self.ledger, usage=self.usage, legs=LegsHere(self.store, self.job),
                trainers=self, operator=self.operator,  # type: ignore[arg-type]
                policy=Policy(co_holders=tuple(terms.holder_id for terms in self.job.spec.legs)),
            )  # fmt: skip
        self.rounds.recover()
        self._threads = self.rounds._threads

    def kill(self) -> None:
        """Ends its process where it stands: nothing more is written or said."""
        self.alive, self.doomed, self.life = False, "", self.life + 1
        self.ledger.close()
        self.store.close()
        for stream in self.streams:
            stream.hang_up()
        self.streams.clear()
        for attempt in list(self.rounds._running.values()):
            attempt.give_up()  # its thread ends without a place to write to
            attempt.end(None)  # and whoever waits for it inside this process does not go on waiting

    def stop(self) -> None:
        """Ends its process in order, if there is one."""
        if self.alive:
            for stream in self.streams:
                stream.hang_up()
            self.rounds.close(10)
            self.alive = False
            self.ledger.close()
            self.store.close()

    def _on_reaching(self, life: int, point: str) -> None:
        """Is called wherever a crash makes a difference, by the process that is the holder's ``life``-th."""
        if not self.alive or life != self.life:
            raise Killed
        if point == self.doomed:
            self.kill()
            raise Killed

    # -- its trainer --------------------------------------------------------------------------------------------

    def for_leg(self, spec: TrainingJobSpec, served: ServedDataset) -> HolderHere:
        return self

    def check_weights(
        self, block: SharedBlock, weights_bytes: int, round: int, attempt: int, timeout_seconds: float
    ) -> None:
        """Any will do."""
        self._block = block

    def run(
        self,
        round: int,
        attempt: int,
        timeout_seconds: float,
        rotation_seed: bytes,
        meanwhile: Callable[[], None],
    ) -> int:
        self._on_reaching(self.life, "train:before")
        self.draws[attempt] += 1
        meanwhile()
        self._on_reaching(self.life, "train:after")
        values = self.values(attempt).astype("<i4")
        self._block.write(0, memoryview(values.tobytes()))
        return values.size

    def end(self, key: object) -> None:
        """There is no child to end."""

    # -- its streams --------------------------------------------------------------------------------------------

    def stream(self, caller: str, header: bytes, public_key: bytes, weights: bytes) -> RoundStream:
        """A RunRound call that has sent its offer."""
        opened = RoundStream(self, caller, header, public_key, weights)
        self.streams.append(opened)
        return opened


class RoundStream:
    """One RunRound stream, at the builder's end: bytes out, bytes in.

    Raises (:meth:`hear`): what the holder answers; :class:`Killed` when its process ends.
    """

    def __init__(
        self, holder: HolderHere, caller: str, header: bytes, public_key: bytes, weights: bytes
    ) -> None:
        self._said: SimpleQueue[bytes | None] = SimpleQueue()
        for message in (public_key, weights):
            self._said.put(message)
        self.talk = Conversation(iter(self._said.get, None))
        request = RoundRequest.from_proto(parse(rounds_pb2.RoundHeader, header, HEADER_LIMIT_BYTES))
        ids.hash32(request.job_id, "job_id")
        self._events = holder.rounds.run(caller, request, self.talk)
        self.holder, self._life = holder, holder.life

    def hear(self) -> bytes:
        """The holder's next event."""
        try:
            return next(self._events).to_proto().SerializeToString()
        except Exception:
            if self._life != self.holder.life:
                raise Killed from None  # what its code met with after that, nobody hears
            raise

    def say(self, step: rounds_pb2.RoundStep) -> None:
        """The builder's next step."""
        self._said.put(step.SerializeToString())

    def end(self) -> None:
        """There is nothing more to come."""
        self._said.put(None)

    def hang_up(self) -> None:
        """The stream is gone for both."""
        self.talk.hang_up()
        self.end()


class SendingHere:
    """The holder's connection, with a place to be killed before and after."""

    def __init__(self, connection: HolderSide, reaching: Callable[[str], None]) -> None:
        self._connection, self._reaching = connection, reaching

    def send_upload(self, *arguments: Any) -> int:
        self._reaching("send:before")
        received = self._connection.send_upload(*arguments)
        self._reaching("send:after")
        return received

    def close(self) -> None:
        """There is nothing to close."""


class DoomedLedger(Ledger):
    """The ledger, with places to be killed at."""

    reaching: Callable[[str], None]

    def charge(self, *arguments: Any) -> Any:
        self.reaching("charge:before")
        done = super().charge(*arguments)
        self.reaching("charge:after")
        return done

    def record_upload(self, *arguments: Any) -> Any:
        self.reaching("upload:before")
        done = super().record_upload(*arguments)
        self.reaching("upload:after")
        return done


class DoomedStore(JobStore):
    """The job store, with places to be killed at."""

    reaching: Callable[[str], None]

    def note_view(self, *arguments: Any) -> Any:
        self.reaching("view:before")
        done = super().note_view(*arguments)
        self.reaching("view:after")
        return done


class DoomedUsage(UsageLog):
    """The usage log, with places to be killed at: before and after a record."""

    reaching: Callable[[str], None] = staticmethod(lambda point: None)

    def record(self, *arguments: Any, **facts: Any) -> None:
        self.reaching("record:before")
        super().record(*arguments, **facts)
        self.reaching("record:after")
