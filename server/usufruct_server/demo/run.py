"""The demo's job: what a model builder does, through the public SDK, and what is measured around it."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console

from usufruct.privacy import DistributedPlan, plan_of
from usufruct_server.demo import baselines, picture
from usufruct_server.demo.network import MONEY, TOKEN_DECIMALS, DatasetSetup, HolderSetup, LocalNetwork
from usufruct_server.demo.report import AuditReport, CurvePoint, LegReport, Report
from usufruct_server.demo.study import Study

if TYPE_CHECKING:
    from usufruct.builder import JobHandle

PURPOSE = "Demonstration on public data"


def holder_setups(study: Study) -> tuple[HolderSetup, ...]:
    """The study's hospitals as data holders: order 6, a budget for one job of the demo and part of another."""
    return tuple(
        HolderSetup(hospital.name.lower(), (DatasetSetup(hospital.card, hospital.rows),))
        for hospital in study.hospitals
    )


def run(study: Study, network: LocalNetwork, console: Console, started: float) -> Report:
    """Trains, compares, audits and draws.

    Args:
        network: running.
        console: told what happens.
        started: ``time.monotonic()`` of the beginning, for the wall time.
    Raises:
        UsufructError: a part of the network failed; the message names it.
    """
    import torch

    torch.set_num_threads(
        1
    )  # tiny matrices, and the holders want the cores: waiting threads would spin on them
    os.environ["USUFRUCT_HOME"] = str(network.directory / "builder" / "home")
    job = train(study, network, console)
    say(console, "comparing with the same model without privacy, and with each hospital alone")
    orders = [setup.datasets[0].order for setup in network.holders]
    pooled, alone = baselines.pooled(study), baselines.alone(study, orders)
    say(console, "auditing: replaying the chain, fetching every usage record, recomputing every privacy loss")
    audited = audit(network)
    receipts = {receipt.dataset_id: receipt for receipt in job.receipts}
    legs = []
    for hospital, setup, baseline in zip(study.hospitals, network.holders, alone, strict=True):
        (dataset_id,) = network.places[setup.name].dataset_ids
        receipt = receipts[dataset_id]
        legs.append(
            LegReport(
                hospital=hospital.name,
                dataset_id=dataset_id,
                nominal_size=hospital.card.nominal_size,
                epsilon=receipt.epsilon,
                loss_micro=receipt.loss_micro,
                order=setup.datasets[0].order,
                paid_units=receipt.price_units if receipt.acknowledged else 0,
                alone=baseline,
            )
        )
    curve = tuple(
        CurvePoint(
            round=result.index,
            loss=float(result.validation_loss or 0.0),
            accuracy=float(result.validation_accuracy or 0.0),
            epsilon=result.epsilon,
            seconds=result.seconds,
            upload_bytes=result.upload_bytes,
        )
        for result in job.history
    )
    path = network.directory / "learning_curve.png"
    report = Report(
        title=study.title,
        watched=study.watched,
        job_id=job.id,
        model=study.choice.describe(study.width),
        parameters=job.spec.encryption.parameter_count,
        rounds=job.rounds_done,
        delta=study.choice.delta,
        max_colluding=plan(job).max_colluding,
        against_everyone=plan(job).alone,
        test=baselines.score(job.model, study.test),
        pooled=pooled,
        legs=tuple(legs),
        curve=curve,
        gas_setup=network.gas_used(0, network.set_up_block),
        gas_job=network.gas_used(network.set_up_block + 1),
        decimals=TOKEN_DECIMALS,
        symbol=MONEY,
        audit=audited,
        picture=path,
        wall_seconds=time.monotonic() - started,
    )
    picture.draw(report, path)
    return report


def train(study: Study, network: LocalNetwork, console: Console) -> JobHandle:
    """What a model builder writes, with the study's figures; returns the finished job."""
    import usufruct as uf

    choice = study.choice
    model = choice.model(study.width)
    builder = uf.connect(network.rpc_url, contract=network.compute_access, key=network.builder_key)
    hospitals = builder.datasets(task=study.task)
    say(console, f"proposing a job to {len(hospitals)} holders; each judges it and signs a grant, or refuses")
    job = builder.train(
        model,
        hospitals,
        aggregator=network.aggregator,
        loss=baselines.LOSS,
        optimizer=uf.SGD(lr=choice.learning_rate, sample_rate=choice.sample_rate),
        server_optimizer=uf.ServerSGD(momentum=choice.momentum),
        privacy=uf.Privacy(epsilon=choice.epsilon, delta=choice.delta, max_grad_norm=choice.max_grad_norm),
        rounds=choice.rounds,
        spare_attempts=choice.spare_attempts,
        validation=(study.validation.features, study.validation.labels),
        purpose=PURPOSE,
    )
    say(console, f"what each hospital is promised, if every attempt is used: {plan(job).promise}")
    say(
        console,
        f"the job is open on chain: prices locked, privacy losses reserved. Training, watched on {study.watched}:",
    )
    for result in job:
        if not sys.stderr.isatty() and (result.index == 1 or result.index % 5 == 0):  # else there is a bar
            console.print(
                f"    round {result.index:>2}   epsilon so far {result.epsilon:.2f}   "
                f"accuracy {result.validation_accuracy:.3f}   {result.seconds:.2f} s",
                highlight=False,
            )
    return job


def plan(job: JobHandle) -> DistributedPlan:
    """What every hospital of the job executes; they differ in the declared size alone, which nothing here depends on."""
    found = plan_of(job.spec, job.spec.legs[0].dataset_id)
    assert isinstance(
        found, DistributedPlan
    )  # what the SDK takes where there are three holders and one step a round
    return found


def audit(network: LocalNetwork) -> AuditReport:
    """What ``usufruct audit verify`` does, against the chain and the holders' endpoints."""
    from usufruct.audit import judge
    from usufruct.audit import report as words
    from usufruct.audit.collection import collect

    judgement = judge(collect(network.rpc_url, network.compute_access))
    kinds = Counter(entry.record.kind for entry in judgement.records)
    return AuditReport(
        ok=judgement.verified,
        verdict=words.verdict(judgement),
        findings=tuple(str(finding) for finding in judgement.discrepancies),
        records={kind.name: count for kind, count in sorted(kinds.items())},
    )


def say(console: Console, text: str) -> None:
    """One line of progress."""
    console.print(f"[cyan]·[/cyan] {text}", highlight=False)
