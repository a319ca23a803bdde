"""What is sent is what is read; what is not well formed is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usufruct.domain import ids
from usufruct.domain.grant import Grant, SignedGrant
from usufruct.domain.training_job import (
    AggregatorRef,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
)
from usufruct.domain.usage_record import UsageKind, UsageRecord
from usufruct.errors import InvalidInput, UsufructError
from usufruct.graph.model_graph import ModelGraph, ModuleSpec, Node, NodeKind, NodeRef
from usufruct.wire.jobs import (
    signed_grant_from_proto,
    signed_grant_to_proto,
    spec_from_bytes,
    spec_hash,
    spec_to_bytes,
)
from usufruct.wire.model_graph import graph_from_bytes, graph_to_bytes
from usufruct.wire.usage import record_from_bytes, record_to_bytes

ADDRESS = ids.address("0x" + "11" * 20, "test")


def leg(dataset_id: int, weight_nano: int) -> LegTerms:
    return LegTerms(
        dataset_id, dataset_id, bytes([dataset_id]) * 32, 100, ADDRESS, ADDRESS, 250, 6, 1000, weight_nano
    )


SPEC = TrainingJobSpec(
    chain_id=1,
    compute_access=ADDRESS,
    builder=ADDRESS,
    nonce=bytes(32),
    model_graph=b"graph",
    loss="mse_loss",
    optimizer=LocalOptimizer("sgd", 5 * 10**8),
    plan=TrainingPlan(NoiseMode.LOCAL, 20, 2, 1, 10**9, 10**6, 7 * 10**6, 10**7, 256),
    legs=(leg(1, 400_000_000), leg(2, 600_000_000)),
    encryption=EncryptionPlan("bfv-4096-56-44", 16, 10**9, 31),
    aggregator=AggregatorRef("127.0.0.1:7100", bytes(32)),
    min_cohort=2,
    purpose="test",
    deliver_by_seconds=2_000_000_000,
    round_timeout_seconds=60,
)


def test_a_spec_survives_the_wire() -> None:
    data = spec_to_bytes(SPEC)
    assert spec_from_bytes(data) == SPEC
    assert spec_hash(data) == spec_hash(spec_to_bytes(spec_from_bytes(data)))
    assert SPEC.reservation_micro(1) == 22_000


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (replace(SPEC, chain_id=0), "chain_id"),
        (replace(SPEC, legs=(leg(2, 400_000_000), leg(1, 600_000_000))), "legs"),
        (replace(SPEC, legs=(leg(1, 400_000_000), leg(2, 400_000_000))), "legs.weight_nano"),
        (replace(SPEC, min_cohort=3), "min_cohort"),
        (replace(SPEC, plan=replace(SPEC.plan, noise_multiplier_micro=0)), "plan.noise_multiplier_micro"),
        (replace(SPEC, plan=replace(SPEC.plan, sample_rate_nano=10**9 + 1)), "plan.sample_rate_nano"),
        (replace(SPEC, plan=replace(SPEC.plan, rounds=0)), "plan.rounds"),
        (replace(SPEC, round_timeout_seconds=0), "round_timeout_seconds"),
        (replace(SPEC, optimizer=LocalOptimizer("adam", 1)), "optimizer.name"),
    ],
)
def test_a_spec_out_of_range_is_refused_by_name(spec: TrainingJobSpec, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        spec_to_bytes(spec)
    assert caught.value.reason == "SPEC_INVALID"
    assert caught.value.details["field"] == field


@given(st.binary(max_size=400))
def test_random_bytes_never_crash_a_reader(data: bytes) -> None:
    for read in (spec_from_bytes, graph_from_bytes, record_from_bytes):
        error = None
        try:
            read(data)
        except UsufructError as refused:
            error = refused
        assert error is None or error.status == "INVALID_ARGUMENT"


@given(st.data())
def test_a_flipped_bit_never_crashes_a_reader(data: st.DataObject) -> None:
    raw = bytearray(spec_to_bytes(SPEC))
    position = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[position // 8] ^= 1 << position % 8
    try:
        assert spec_hash(bytes(raw)) != spec_hash(spec_to_bytes(SPEC))
        spec_from_bytes(bytes(raw))
    except UsufructError:
        pass


def test_a_graph_survives_the_wire() -> None:
    graph = ModelGraph(
        1,
        (3,),
        "float32",
        (ModuleSpec("Linear", (("in_features", 3), ("out_features", 1), ("bias", True))),),
        (
            Node(NodeKind.INPUT),
            Node(NodeKind.MODULE, arguments=(NodeRef(0),)),
            Node(
                NodeKind.FUNCTION,
                function_name="cat",
                arguments=((NodeRef(1), NodeRef(0)),),
                keywords=(("dim", -1), ("scale", 0.5), ("word", "tanh"), ("nothing", None)),
            ),
            Node(NodeKind.OUTPUT, arguments=(NodeRef(2),)),
        ),
    )
    assert graph_from_bytes(graph_to_bytes(graph)) == graph


def test_a_record_survives_the_wire_and_only_its_canonical_bytes_do() -> None:
    record = UsageRecord(
        7, UsageKind.CHARGED, 1_800_000_000, 3, job_id=bytes(32), builder=ADDRESS, round=1, attempt=2
    )
    data = record_to_bytes(record)
    assert record_from_bytes(data) == record
    with pytest.raises(InvalidInput):
        record_from_bytes(data + b"\x98\x06\x01")


def test_a_check_is_recorded_with_view_update_sum_and_seed() -> None:
    hashes = {
        name: bytes([n]) * 32
        for n, name in enumerate(("view_hash", "upload_digest", "sum_digest", "document_hash"))
    }
    record = UsageRecord(
        8, UsageKind.CHECKED, 1_800_000_000, 3, job_id=bytes(32), round=1, attempt=2, **hashes
    )
    assert record_from_bytes(record_to_bytes(record)) == record
    with pytest.raises(InvalidInput):
        record_from_bytes(record_to_bytes(replace(record, sum_digest=bytes(31))))
    with pytest.raises(InvalidInput) as refused:
        record_from_bytes(record_to_bytes(replace(record, version=1)))
    assert refused.value.reason == "UNSUPPORTED_VERSION"


def test_a_grant_survives_the_wire() -> None:
    signed = SignedGrant(
        Grant(
            1, ADDRESS, bytes(32), bytes(32), ADDRESS, 2**128 - 1, 1, 10, 10, 0, 2_000_000_000, 0, bytes(32)
        ),
        bytes(65),
    )
    assert signed_grant_from_proto(signed_grant_to_proto(signed)) == signed
    short = signed_grant_to_proto(signed)
    short.signature = b""
    with pytest.raises(InvalidInput):
        signed_grant_from_proto(short)
