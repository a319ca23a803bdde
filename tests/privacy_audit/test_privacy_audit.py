"""The short form of ``make audit-privacy``: the shipped trainer is audited, and so are trainers with less noise than claimed.

Every finding alarms at a correct trainer with a probability of at most 10^-9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from audits import MODES, Auditor, Finding, plan_for
from canaries import Canaries

from usufruct.privacy import DistributedPlan
from usufruct_server.holder.training.zygote import Zygote

LEVEL, CANARIES = 1e-9, 1000


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Auditor]:
    zygote = Zygote()
    yield Auditor(zygote, tmp_path_factory.mktemp("holders"), LEVEL, CANARIES)
    zygote.close()


def alarms(*findings: Finding) -> list[str]:
    return [f"{finding.audit}: {finding.seen}" for finding in findings if finding.alarm]


@pytest.mark.parametrize("mode", MODES)
def test_the_releases_prove_no_more_than_the_plan_claims(auditor: Auditor, mode: str) -> None:
    assert not alarms(auditor.two_run(mode, 2.0), auditor.one_run(mode, 4.0))


@pytest.mark.parametrize("mode", MODES)
def test_the_audits_see_too_little_noise(auditor: Auditor, mode: str) -> None:
    """A sixth of the noise that the claim is for, by a plan of its own: both audits must refute the claim."""
    findings = []
    for audit, epsilon, rate in ((auditor.two_run, 2.0, 0.5), (auditor.one_run, 2.0, 1.0)):
        honest = plan_for(mode, epsilon, rate, Canaries.of(CANARIES))
        if isinstance(honest, DistributedPlan):
            noise = replace(honest.noise, share_noise=honest.noise.share_noise // 64)
            findings.append(audit(mode, epsilon, replace(honest, noise=noise)))
        else:
            findings.append(audit(mode, epsilon, replace(honest, noise_multiplier=honest.noise_multiplier / 8)))
    assert len(alarms(*findings)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_the_noise_is_the_law_and_never_the_same(auditor: Auditor, mode: str) -> None:
    assert not alarms(*auditor.noise(mode, 100_000), auditor.repeats(mode))


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_poisson_and_every_row_counts_as_one_clip(auditor: Auditor, mode: str) -> None:
    assert not alarms(*auditor.sampling(mode, 30))
