"""A running aggregator and everyone who talks to it."""

from __future__ import annotations

import secrets

import numpy as np
from eth_account import Account
from eth_account.signers.local import LocalAccount

from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.update import encrypt_update
from usufruct.wire.aggregation import BuilderAggregation, RoundToSum, send_upload
from usufruct_server.aggregator.config import Limits
from usufruct_server.aggregator.server import AggregatorServer

COUNT = 9_000
LIMITS = Limits(
    max_open_rounds=4, max_open_rounds_per_builder=2, max_parameters=100_000, max_round_seconds=600
)


class Network:
    """A running aggregator and everyone who talks to it."""

    def __init__(self, server: AggregatorServer) -> None:
        self.server = server
        self.builder: LocalAccount = Account.create()
        self.stranger: LocalAccount = Account.create()
        self.operators: dict[int, LocalAccount] = {
            3: Account.create(),
            5: Account.create(),
            8: Account.create(),
        }
        self.key = RoundKey.generate(DEFAULT_PARAMETERS)
        rng = np.random.default_rng(1)
        self.values = {d: rng.integers(0, 65536, COUNT) for d in self.operators}
        self.uploads = {
            d: encrypt_update(DEFAULT_PARAMETERS, self.key.public_key_bytes, v)
            for d, v in self.values.items()
        }

    @property
    def peer(self):
        return self.server.peer

    def new_round(self, **changes) -> RoundToSum:
        fields = dict(
            job_id=secrets.token_bytes(32),
            round=4,
            attempt=6,
            view_hash=secrets.token_bytes(32),
            operators={d: account.address for d, account in self.operators.items()},
            parameter_count=COUNT,
            parameters=DEFAULT_PARAMETERS,
        )
        return RoundToSum(**{**fields, **changes})

    def as_builder(self, account: LocalAccount | None = None) -> BuilderAggregation:
        return BuilderAggregation(self.peer, account or self.builder)

    def send(
        self, r: RoundToSum, dataset_id: int, upload: bytes | None = None, operator=None, **changes
    ) -> int:
        fields = dict(
            job_id=r.job_id,
            round=r.round,
            attempt=r.attempt,
            dataset_id=dataset_id,
            view_hash=r.view_hash,
            operators=dict(r.operators),
            upload=self.uploads[dataset_id] if upload is None else upload,
        )
        return send_upload(self.peer, operator or self.operators[dataset_id], **{**fields, **changes})
