"""Every refusal has its own reason, comes before a row is used, and stands in the usage log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from holder_world import Builder, World, free_port, registered, round_parts, server_of
from torch import nn

from usufruct import graph
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.domain.usage_record import UsageKind
from usufruct.encryption import DEFAULT_PARAMETERS, BoundedValues, SignedSums, plan
from usufruct.errors import ConfigError, UsufructError
from usufruct.v1 import jobs_pb2
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.jobs import spec_to_bytes
from usufruct.wire.model_graph import graph_to_bytes
from usufruct.wire.status import rpc_errors
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.job_store import JobStore
from usufruct_server.holder.opening import open_operator
from usufruct_server.holder.server import HolderServer

GRANTED, REFUSED, PENDING = (
    jobs_pb2.PROPOSAL_STATE_GRANTED, jobs_pb2.PROPOSAL_STATE_REFUSED, jobs_pb2.PROPOSAL_STATE_PENDING,
)  # fmt: skip


def _logged(server: HolderServer, job_id: bytes) -> list[str]:
    records = map(record_from_bytes, server.ledger.usage_records(0, 10_000))
    return [r.reason for r in records if r.kind is UsageKind.REFUSED and r.job_id == job_id]


def _reason(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UsufructError) as caught:
        call(*arguments, **named)
    return caught.value.reason


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("WRONG_CHAIN", lambda spec: replace(spec, chain_id=spec.chain_id + 1)),
        ("SPEC_INVALID", lambda spec: replace(spec, loss="softmax")),
        ("SPEC_INVALID", lambda spec: _encrypted(spec, "bfv-of-my-own")),
        ("SPEC_INVALID", lambda spec: _encrypted(spec, DEFAULT_PARAMETERS.name.replace("t44", "t43"))),
        ("SPEC_INVALID", lambda spec: _encrypted(spec, plan(SignedSums(22), 8).name)),
        ("SPEC_INVALID", lambda spec: _encrypted(spec, plan(BoundedValues(12), 8).name)),
        ("BUDGET_SHORT", lambda spec: _resized(spec, rounds=9000)),
        ("GRAPH_NOT_ALLOWED", lambda spec: replace(spec, model_graph=b"\xff\xff")),
        (
            "GRAPH_NOT_ALLOWED",
            lambda spec: replace(spec, model_graph=graph_to_bytes(graph.trace(nn.Linear(5, 1), (5,)).graph)),
        ),
        ("CARD_MISMATCH", lambda spec: replace(spec, legs=(replace(spec.legs[0], card_hash=bytes(32)),))),
        ("POLICY_PRICE_TOO_LOW", lambda spec: replace(spec, legs=(replace(spec.legs[0], price_units=1),))),
        ("DATASET_UNKNOWN", lambda spec: replace(spec, legs=(replace(spec.legs[0], dataset_id=2**40),))),
    ],
)
def test_a_proposal_is_refused_with_its_own_reason_and_logged(
    served: HolderServer, peer: PinnedEndpoint, builder: Builder, reason: str, change: Any
) -> None:
    dataset_id = registered(served.config)
    spec = change(builder.spec(dataset_id))
    proposal = builder.propose(peer, dataset_id, spec_to_bytes(spec))
    assert (proposal.state, proposal.reason) == (REFUSED, reason)
    assert proposal.text
    assert _logged(served, spec.job_id) == [reason]


def test_a_leg_starts_only_with_its_own_grant(
    served: HolderServer, peer: PinnedEndpoint, world: World, builder: Builder
) -> None:
    dataset_id = registered(served.config)
    spec = builder.spec(dataset_id)
    data = spec_to_bytes(spec)
    assert _reason(builder.start, peer, spec.job_id, dataset_id) == "GRANT_MISSING"
    proposal = builder.propose(peer, dataset_id, data)
    assert proposal.state == GRANTED
    assert builder.propose(peer, dataset_id, data).grant == proposal.grant
    assert _reason(builder.start, peer, spec.job_id, dataset_id) == "LEG_NOT_OPEN"
    other = Builder(world)
    assert _reason(other.start, peer, spec.job_id, dataset_id) == "GRANT_OTHER_BUILDER"
    assert _reason(other.propose, peer, dataset_id, data) == "NOT_YOURS"
    parts = round_parts(other.account, spec, dataset_id)
    assert other.run_round(peer, parts).error() == "GRANT_MISSING"
    with pytest.raises(UsufructError) as caught, rpc_errors():
        other.jobs(peer).GetProposal(jobs_pb2.GetProposalRequest(job_id=spec.job_id, dataset_id=dataset_id))
    assert caught.value.reason == "NOT_YOURS"
    other.close()
    assert _logged(served, spec.job_id) == ["GRANT_MISSING", "LEG_NOT_OPEN", "GRANT_OTHER_BUILDER"]


def test_a_request_id_and_a_job_stand_for_one_spec(
    served: HolderServer, peer: PinnedEndpoint, builder: Builder
) -> None:
    dataset_id = registered(served.config)
    spec = builder.spec(dataset_id)
    builder.propose(peer, dataset_id, spec_to_bytes(spec), "same")
    changed = spec_to_bytes(replace(spec, purpose="another"))
    assert _reason(builder.propose, peer, dataset_id, changed, "same") == "REQUEST_ID_REUSED"
    assert _reason(builder.propose, peer, dataset_id, changed, "fresh") == "WRONG_SPEC"
    assert _reason(builder.propose, peer, dataset_id, b"\xff", "bytes") == "MALFORMED"


def test_a_cohort_with_invented_members_is_refused(
    peer: PinnedEndpoint, served: HolderServer, builder: Builder
) -> None:
    dataset_id = registered(served.config)
    spec = builder.spec(dataset_id)
    mine = replace(spec.legs[0], weight_nano=spec.legs[0].weight_nano // 2)
    invented = replace(mine, dataset_id=dataset_id + 1000, operator=builder.account.address)
    spec = replace(spec, legs=(mine, invented), min_cohort=2)
    proposal = builder.propose(peer, dataset_id, spec_to_bytes(spec), "invented")
    assert (proposal.state, proposal.reason) == (REFUSED, "CARD_MISMATCH")


@pytest.fixture(scope="module")
def cautious(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, HolderServer]]:
    """A holder on a chain of its own, whose policy asks a person and whose grants are short."""
    with World.running(tmp_path_factory.mktemp("cautious")) as world:
        policy = 'auto_grant = true\nunknown_builders = "inbox"\ngrant_term_seconds = 60'
        config = world.holder("second", port=free_port(), policy=policy)
        server = server_of(config)
        server.start()
        yield world, server
        server.stop()


def test_a_person_decides_about_what_waits_in_the_inbox(
    cautious: tuple[World, HolderServer],
) -> None:
    world, server = cautious
    peer, dataset_id = (
        PinnedEndpoint(server.config.endpoint, server.identity.fingerprint),
        registered(server.config),
    )
    builder = Builder(world)
    jobs = []
    for name in ("yes", "no"):
        spec = builder.spec(dataset_id)
        assert builder.propose(peer, dataset_id, spec_to_bytes(spec), name).state == PENDING
        jobs.append(spec)
    assert _reason(builder.start, peer, jobs[0].job_id, dataset_id) == "GRANT_PENDING"
    elsewhere = JobStore(server.config.jobs_path)  # as `usufruct holder grant` does, in another process
    elsewhere.decide(jobs[0].job_id, dataset_id, "grant", "")
    elsewhere.decide(jobs[1].job_id, dataset_id, "refuse", "not now")
    elsewhere.close()
    stub = builder.jobs(peer)
    yes, no = (
        stub.GetProposal(jobs_pb2.GetProposalRequest(job_id=spec.job_id, dataset_id=dataset_id))
        for spec in jobs
    )
    assert yes.state == GRANTED
    assert (no.state, no.reason) == (REFUSED, "REFUSED_BY_HOLDER")
    assert _logged(server, jobs[1].job_id) == ["REFUSED_BY_HOLDER"]
    world.dev.evm.increase_time(120)
    world.dev.evm.mine()
    assert _reason(builder.start, peer, jobs[0].job_id, dataset_id) == "GRANT_EXPIRED"
    builder.close()


def test_a_dataset_in_which_a_person_has_two_rows_is_refused(
    cautious: tuple[World, HolderServer],
) -> None:
    world, _ = cautious
    config = world.holder("third", port=free_port(), person_column="patient", persons=30)
    server = server_of(config)
    server.start()
    peer, builder = PinnedEndpoint(config.endpoint, server.identity.fingerprint), Builder(world)
    spec = builder.spec(registered(config))
    proposal = builder.propose(peer, registered(config), spec_to_bytes(spec))
    assert (proposal.state, proposal.reason) == (REFUSED, "PERSON_HAS_SEVERAL_ROWS")
    builder.close()
    server.stop()


def test_a_sum_over_too_few_holders_is_refused(cautious: tuple[World, HolderServer]) -> None:
    world, _ = cautious
    config = world.holder("fourth", port=free_port(), min_cohort=2)
    server = server_of(config)
    server.start()
    peer, builder = PinnedEndpoint(config.endpoint, server.identity.fingerprint), Builder(world)
    spec = builder.spec(registered(config))
    proposal = builder.propose(peer, registered(config), spec_to_bytes(spec))
    assert (proposal.state, proposal.reason) == (REFUSED, "COHORT_TOO_SMALL")
    builder.close()
    server.stop()


def test_a_server_refuses_to_start_when_the_chain_says_otherwise(
    cautious: tuple[World, HolderServer],
) -> None:
    world, _ = cautious
    config = world.holder("fifth", port=free_port())
    operator = open_operator(config)
    with pytest.raises(ConfigError, match=r"The endpoint is .*, on chain it is"):
        server_of(replace(config, endpoint="127.0.0.1:1"), operator)
    with pytest.raises(ConfigError, match="The operator key is"):
        server_of(config, world.account())
    card = config.datasets[0].card
    card.write_bytes(card.read_bytes().replace(b'"nominal_size":60', b'"nominal_size":61'))
    with pytest.raises(ConfigError, match="is not registered"):
        server_of(config, operator)


def test_a_taken_port_is_named(cautious: tuple[World, HolderServer]) -> None:
    world, first = cautious
    config = replace(world.holder("sixth", port=free_port()), listen=first.config.listen)
    assert _reason(HolderServer, config, open_operator(config)) == "PORT_IN_USE"


def test_without_the_chain_new_work_is_refused_at_once(
    cautious: tuple[World, HolderServer],
) -> None:
    world, server = cautious
    peer, builder = PinnedEndpoint(server.config.endpoint, server.identity.fingerprint), Builder(world)
    spec = builder.spec(registered(server.config))
    world.dev.stop()
    assert (
        _reason(builder.propose, peer, registered(server.config), spec_to_bytes(spec)) == "CHAIN_UNREACHABLE"
    )
    assert _reason(HolderServer, server.config, open_operator(server.config)) == "CHAIN_UNREACHABLE"
    builder.close()


def _encrypted(spec: TrainingJobSpec, parameters: str) -> TrainingJobSpec:
    """With parameters that are none, not the planner's, for signed sums, or too narrow for the job's 16 bits."""
    return replace(spec, encryption=replace(spec.encryption, parameters=parameters))


def _resized(spec: TrainingJobSpec, **plan: Any) -> TrainingJobSpec:
    return replace(spec, plan=replace(spec.plan, **plan))
