"""What an audit finds, job by job."""

from __future__ import annotations

from collections import defaultdict

from usufruct.audit import Evidence, judge
from usufruct.audit.findings import Finding


def findings_by_job(evidence: Evidence) -> dict[bytes, list[Finding]]:
    """Findings by job number; every one must be about a job, and none about words of the chain that differ."""
    by_job: dict[bytes, list[Finding]] = defaultdict(list)
    for finding in judge(evidence).discrepancies:
        assert finding.place.job_id is not None, f"no word of the chain differs from another: {finding}"
        by_job[finding.place.job_id].append(finding)
    return by_job
