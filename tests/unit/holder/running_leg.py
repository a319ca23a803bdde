"""One running leg of the served dataset, and rounds on it."""

from __future__ import annotations

from typing import Any

from holder_world import Builder, RoundParts, RoundTalk, registered, round_parts

from usufruct.domain.training_job import TrainingJobSpec
from usufruct.domain.usage_record import UsageKind, UsageRecord
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.server import HolderServer


class Leg:
    """One running leg of the served dataset."""

    def __init__(
        self, served: HolderServer, peer: PinnedEndpoint, builder: Builder, spec: TrainingJobSpec
    ) -> None:
        self.served, self.peer, self.builder, self.spec = served, peer, builder, spec
        self.dataset_id = registered(served.config)

    def parts(self, **changes: Any) -> RoundParts:
        """An attempt, as the builder offers it."""
        return round_parts(self.builder.account, self.spec, self.dataset_id, **changes)

    def talk(self, parts: RoundParts) -> RoundTalk:
        """Offers it."""
        return self.builder.run_round(self.peer, parts)

    def refused(self, **changes: Any) -> str:
        """Why an attempt does not come to its end, with a roster of this holder alone."""
        return self.ended(self.parts(**changes))

    def ended(self, parts: RoundParts) -> str:
        """The same of an attempt that may have been offered before."""
        return self.builder.run_alone(self.peer, parts)

    @property
    def charged(self) -> int:
        """Attempts in the ledger."""
        return self.served.ledger.leg(self.dataset_id, self.spec.job_id).charged

    def records(self, kind: UsageKind) -> list[UsageRecord]:
        """What the usage log has of the leg."""
        return [record for record in self._records() if record.kind is kind]

    def kinds(self) -> list[UsageKind]:
        """Their kinds, in order, but for the grant."""
        return [record.kind for record in self._records() if record.kind is not UsageKind.GRANTED]

    def close(self) -> None:
        """Ends what the holder still does for it."""
        key = self.spec.job_id, self.dataset_id
        self.served.rounds.wind_up(key, 30)
        self.served.rounds.end_leg(key)

    def _records(self) -> list[UsageRecord]:
        records = map(record_from_bytes, self.served.ledger.usage_records(0, 10_000))
        return [record for record in records if record.job_id == self.spec.job_id]
