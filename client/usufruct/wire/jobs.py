"""Job specs and grants: protobuf ↔ domain. A spec is serialised once; everyone hashes the bytes they received."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from eth_utils.crypto import keccak

from usufruct.domain import ids
from usufruct.domain.grant import Grant, SignedGrant
from usufruct.domain.query import EvaluationQuery, Query, StatisticsQuery
from usufruct.domain.training_job import (
    AggregatorRef,
    Clipping,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
    check_spec,
)
from usufruct.errors import InvalidInput
from usufruct.v1 import catalogue_pb2, jobs_pb2
from usufruct.wire.parsing import decimal, parse

SPEC_LIMIT_BYTES = 5 << 20
E = TypeVar("E", bound=IntEnum)


def spec_hash(spec_bytes: bytes) -> bytes:
    """Keccak-256 of a spec's exact bytes; 32 bytes. This is what a grant names."""
    return keccak(spec_bytes)


def purpose_hash(purpose: str) -> bytes:
    """Keccak-256 of a purpose's UTF-8 text; 32 bytes."""
    return keccak(purpose.encode())


def spec_to_bytes(spec: TrainingJobSpec) -> bytes:
    """Serialises a checked spec. Call it once per job and keep the bytes: their hash is the job's spec hash."""
    check_spec(spec)
    plan, encryption = spec.plan, spec.encryption
    message = jobs_pb2.TrainingJobSpec(
        version=spec.version,
        chain_id=spec.chain_id,
        compute_access=spec.compute_access,
        builder=spec.builder,
        nonce=spec.nonce,
        model_graph=spec.model_graph,
        loss=spec.loss,
        optimizer=jobs_pb2.LocalOptimizer(
            name=spec.optimizer.name,
            learning_rate_nano=spec.optimizer.learning_rate_nano,
            momentum_nano=spec.optimizer.momentum_nano,
        ),
        plan=jobs_pb2.TrainingPlan(
            noise_mode=catalogue_pb2.NoiseMode.Name(int(plan.noise_mode)),
            rounds=plan.rounds,
            spare_attempts=plan.spare_attempts,
            local_steps=plan.local_steps,
            sample_rate_nano=plan.sample_rate_nano,
            max_grad_norm_micro=plan.max_grad_norm_micro,
            noise_multiplier_micro=plan.noise_multiplier_micro,
            delta_pico=plan.delta_pico,
            micro_batch_size=plan.micro_batch_size,
            min_honest=plan.min_honest,
            max_colluding=plan.max_colluding,
            scale_micro=plan.scale_micro,
            share_noise=plan.share_noise,
            clamp=plan.clamp,
            clipping=jobs_pb2.Clipping.Name(int(plan.clipping)),
        ),
        legs=[
            jobs_pb2.LegTerms(
                dataset_id=leg.dataset_id,
                holder_id=leg.holder_id,
                card_hash=leg.card_hash,
                nominal_size=leg.nominal_size,
                operator=leg.operator,
                token=leg.token,
                price_units=str(leg.price_units),
                order=leg.order,
                loss_per_attempt_micro=leg.loss_per_attempt_micro,
                weight_nano=leg.weight_nano,
            )
            for leg in spec.legs
        ],
        encryption=jobs_pb2.EncryptionPlan(
            parameters=encryption.parameters,
            value_bits=encryption.value_bits,
            update_range_nano=encryption.update_range_nano,
            parameter_count=encryption.parameter_count,
        ),
        aggregator=jobs_pb2.AggregatorRef(
            endpoint=spec.aggregator.endpoint, fingerprint=spec.aggregator.fingerprint
        ),
        min_cohort=spec.min_cohort,
        purpose=spec.purpose,
        deliver_by_seconds=spec.deliver_by_seconds,
        round_timeout_seconds=spec.round_timeout_seconds,
        base_model=spec.base_model,
        evaluation=_evaluation(spec.query),
        statistics=_statistics(spec.query),
    )
    return message.SerializeToString(deterministic=True)


def spec_from_bytes(data: bytes) -> TrainingJobSpec:
    """Reads and checks a spec that came from another party.

    Raises:
        InvalidInput: ``MALFORMED``, ``TOO_LARGE``, ``SPEC_INVALID`` (with the field) or ``UNSUPPORTED_VERSION``.
    """
    m = parse(jobs_pb2.TrainingJobSpec, data, SPEC_LIMIT_BYTES)
    noise_mode = _known(NoiseMode, m.plan.noise_mode, "plan.noise_mode")
    clipping = _known(Clipping, m.plan.clipping or Clipping.FLAT, "plan.clipping")
    spec = TrainingJobSpec(
        version=m.version,
        chain_id=m.chain_id,
        compute_access=ids.address(m.compute_access, "compute_access"),
        builder=ids.address(m.builder, "builder"),
        nonce=ids.hash32(m.nonce, "nonce"),
        model_graph=m.model_graph,
        loss=m.loss,
        optimizer=LocalOptimizer(m.optimizer.name, m.optimizer.learning_rate_nano, m.optimizer.momentum_nano),
        plan=TrainingPlan(
            noise_mode=noise_mode,
            rounds=m.plan.rounds,
            spare_attempts=m.plan.spare_attempts,
            local_steps=m.plan.local_steps,
            sample_rate_nano=m.plan.sample_rate_nano,
            max_grad_norm_micro=m.plan.max_grad_norm_micro,
            noise_multiplier_micro=m.plan.noise_multiplier_micro,
            delta_pico=m.plan.delta_pico,
            micro_batch_size=m.plan.micro_batch_size,
            min_honest=m.plan.min_honest,
            max_colluding=m.plan.max_colluding,
            scale_micro=m.plan.scale_micro,
            share_noise=m.plan.share_noise,
            clamp=m.plan.clamp,
            clipping=clipping,
        ),
        legs=tuple(
            LegTerms(
                dataset_id=leg.dataset_id,
                holder_id=leg.holder_id,
                card_hash=leg.card_hash,
                nominal_size=leg.nominal_size,
                operator=ids.address(leg.operator, "legs.operator"),
                token=ids.address(leg.token, "legs.token"),
                price_units=decimal(leg.price_units, "legs.price_units", 2**128 - 1),
                order=leg.order,
                loss_per_attempt_micro=leg.loss_per_attempt_micro,
                weight_nano=leg.weight_nano,
            )
            for leg in m.legs
        ),
        encryption=EncryptionPlan(
            parameters=m.encryption.parameters,
            value_bits=m.encryption.value_bits,
            update_range_nano=m.encryption.update_range_nano,
            parameter_count=m.encryption.parameter_count,
        ),
        aggregator=AggregatorRef(m.aggregator.endpoint, m.aggregator.fingerprint),
        min_cohort=m.min_cohort,
        purpose=m.purpose,
        deliver_by_seconds=m.deliver_by_seconds,
        round_timeout_seconds=m.round_timeout_seconds,
        base_model=m.base_model,
        query=_query(m),
    )
    return check_spec(spec)


def signed_grant_to_proto(signed: SignedGrant) -> jobs_pb2.SignedGrant:
    """A grant and its signature, for the wire."""
    g = signed.grant
    return jobs_pb2.SignedGrant(
        dataset_id=g.dataset_id,
        grantee=g.grantee,
        spec_hash=g.spec_hash,
        purpose_hash=g.purpose_hash,
        token=g.token,
        price_units=str(g.price_units),
        max_uses=g.max_uses,
        loss_per_job_micro=g.loss_per_job_micro,
        loss_total_micro=g.loss_total_micro,
        not_before_seconds=g.not_before_seconds,
        deadline_seconds=g.deadline_seconds,
        revocation_epoch=g.revocation_epoch,
        salt=g.salt,
        signature=signed.signature,
    )


def signed_grant_from_proto(m: jobs_pb2.SignedGrant) -> SignedGrant:
    """Reads a grant from another party; its signature is checked by ``Registry.checkGrant``, not here.

    Raises:
        InvalidInput: naming the field.
    """
    if len(m.signature) != 65:
        raise InvalidInput("grant.signature must be 65 bytes", field="grant.signature")
    grant = Grant(
        dataset_id=m.dataset_id,
        grantee=ids.address(m.grantee, "grant.grantee"),
        spec_hash=ids.hash32(m.spec_hash, "grant.spec_hash"),
        purpose_hash=ids.hash32(m.purpose_hash, "grant.purpose_hash"),
        token=ids.address(m.token, "grant.token"),
        price_units=decimal(m.price_units, "grant.price_units", 2**128 - 1),
        max_uses=m.max_uses,
        loss_per_job_micro=m.loss_per_job_micro,
        loss_total_micro=m.loss_total_micro,
        not_before_seconds=_time(m.not_before_seconds, "grant.not_before_seconds"),
        deadline_seconds=_time(m.deadline_seconds, "grant.deadline_seconds"),
        revocation_epoch=m.revocation_epoch,
        salt=ids.hash32(m.salt, "grant.salt"),
    )
    return SignedGrant(grant, m.signature)


def _evaluation(query: Query | None) -> jobs_pb2.EvaluationQuery | None:
    if not isinstance(query, EvaluationQuery):
        return None
    return jobs_pb2.EvaluationQuery(
        model_parameters=query.model_parameters,
        score_bins=query.score_bins,
        loss_bound_micro=query.loss_bound_micro,
    )


def _statistics(query: Query | None) -> jobs_pb2.StatisticsQuery | None:
    if not isinstance(query, StatisticsQuery):
        return None
    return jobs_pb2.StatisticsQuery(columns=query.columns, bins=query.bins)


def _query(m: jobs_pb2.TrainingJobSpec) -> Query | None:
    which = m.WhichOneof("query")
    if which == "evaluation":
        asked = m.evaluation
        return EvaluationQuery(asked.model_parameters, asked.score_bins, asked.loss_bound_micro)
    if which == "statistics":
        return StatisticsQuery(tuple(m.statistics.columns), m.statistics.bins)
    return None


def _known(kind: type[E], number: int, field: str) -> E:
    try:
        return kind(number)
    except ValueError as error:
        raise InvalidInput(f"{field} is not known", reason="SPEC_INVALID", field=field) from error


def _time(value: int, field: str) -> int:
    if not 0 <= value < 2**40:
        raise InvalidInput(f"{field} must be a UTC time in seconds", field=field)
    return value
