"""A running aggregator and everyone who talks to it."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import Commitment, leaf_of
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.layout import Kind
from usufruct.encryption.linear_check import Challenge, check_sum, check_value
from usufruct.encryption.update import encrypt_update
from usufruct.errors import UsufructError
from usufruct.v1 import aggregation_pb2
from usufruct.wire.aggregation import (
    BuilderAggregation,
    FetchedSum,
    HolderAggregation,
    RoundToSum,
)
from usufruct.wire.channel import pinned_channel
from usufruct.wire.raw import UPLOAD
from usufruct.wire.signatures import signed_upload_header
from usufruct.wire.status import rpc_errors
from usufruct_server.aggregator.config import Limits
from usufruct_server.aggregator.server import AggregatorServer

COUNT = 300_000
"""Values of an update: three chunks, the last one shorter."""

CHUNKING = Chunking(DEFAULT_PARAMETERS, Kind.UPLOAD, COUNT)
LIMITS = Limits(
    max_open_rounds=4, max_open_rounds_per_builder=2, max_parameters=400_000, max_round_seconds=600
)


def chunks_of(upload: bytes) -> list[bytes]:
    """The chunks of a whole upload."""
    return list(CHUNKING.read(io.BytesIO(upload)))


class Network:
    """A running aggregator and everyone who talks to it.

    Args:
        outbox: where the holders have their uploads.
    """

    def __init__(self, server: AggregatorServer, outbox: Path) -> None:
        self.server = server
        self.outbox = outbox
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

    def as_holder(self, dataset_id: int) -> HolderAggregation:
        return HolderAggregation(self.peer, self.operators[dataset_id])

    def send(self, r: RoundToSum, dataset_id: int, upload: bytes | None = None, operator=None) -> int:
        """A holder sends its upload, or another one, from a file."""
        upload = self.uploads[dataset_id] if upload is None else upload
        path = self.outbox / f"{dataset_id}-{secrets.token_hex(4)}"
        path.write_bytes(upload)
        commitment = Commitment.over(CHUNKING, chunks_of(upload))
        with HolderAggregation(self.peer, operator or self.operators[dataset_id]) as holder:
            return holder.send_upload(r, dataset_id, path, commitment)

    def opened(self, fetched: FetchedSum) -> np.ndarray:
        """What the builder does with a sum: every holder answers a challenge, then the key opens it; once."""
        challenge = Challenge(secrets.token_bytes(32), fetched.uploads[0].view_hash, fetched.commitment.root)
        answers = {
            d: check_value(challenge, CHUNKING, chunks_of(self.uploads[d])) for d in fetched.upload_roots
        }
        checked = check_sum(challenge, fetched.commitment, fetched.chunks(), lambda: answers)
        return np.concatenate(list(self.key.open_sum(checked, fetched.chunks())))

    def total(self) -> np.ndarray:
        return np.sum(list(self.values.values()), axis=0)


def signed(network: Network, r: RoundToSum, d: int, upload: bytes) -> aggregation_pb2.UploadHeader:
    """The header of an upload, signed by its operator."""
    return signed_upload_header(
        network.operators[d],
        dataset_id=d,
        upload_root=Commitment.over(CHUNKING, chunks_of(upload)).root,
        upload_bytes=len(upload),
        **r.names,
    )


def leaves_of(upload: bytes) -> bytes:
    """The second message of an upload."""
    return b"".join(leaf_of(CHUNKING, index, chunk) for index, chunk in enumerate(chunks_of(upload)))


def raw_send(network: Network, header: aggregation_pb2.UploadHeader, *messages: bytes) -> None:
    """Sends an upload's messages as they are."""

    def stream() -> Iterator[bytes]:
        yield header.SerializeToString()
        yield from messages

    with pinned_channel(network.peer.endpoint, network.peer.fingerprint) as channel, rpc_errors():
        channel.stream_unary(UPLOAD)(stream(), timeout=10)


def refused(reason: str):
    """Expects an error of ours with this reason."""

    class Expectation:
        def __enter__(self):
            self._raises = pytest.raises(UsufructError)
            self.info = self._raises.__enter__()
            return self

        def __exit__(self, *exc):
            handled = self._raises.__exit__(*exc)
            assert self.info.value.reason == reason, self.info.value
            return handled

    return Expectation()


def wait_for_fetches(network, r, number: int = 1) -> None:
    """Returns once so many fetches of ``r`` by its builder have begun."""
    opened = network.server.rounds.of_builder(network.builder.address, r.job_id, r.attempt)
    with opened._changed:
        while opened._under_way[network.builder.address] < number:
            opened._changed.wait(0.01)
