"""Going on with a job of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from usufruct.builder.book import JobBook
from usufruct.builder.network import GRANT_TIMEOUT_SECONDS, Network, connect
from usufruct.builder.store import JobStore
from usufruct.domain.grant import SignedSponsorship
from usufruct.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from usufruct.builder.job import JobHandle


def resume(
    job_id: str,
    *,
    model: nn.Module | None = None,
    validation: Any = None,
    rpc_url: str | None = None,
    key: str | Path | None = None,
    passphrase_file: str | Path | None = None,
    grant_timeout_seconds: float = GRANT_TIMEOUT_SECONDS,
    sponsorship: SignedSponsorship | None = None,
) -> JobHandle:
    """Takes up a job that was interrupted, where it was; a proposal is opened once it is granted.

    Iterating the handle goes on with whatever is left: acceptance, rounds, delivery; of a job that was cancelled or whose
    deadlines have passed, getting back what can come back.

    Args:
        job_id: ``0x…``.
        model: an instance of the model the job was proposed with, to be trained further. Without it, ``job.model`` is
            rebuilt from the job's graph: same function, same ``state_dict()`` keys.
        validation: the builder's own ``(X, y)``; it is not kept on disk.
        rpc_url, key: where they are now; as they were, by default.
        passphrase_file: as for ``connect``.
        sponsorship: of whoever pays for a proposal, where that is not the builder.
    Raises:
        InvalidInput: JOB_UNKNOWN; or ``model`` is another one.
        ConfigError: another process drives the job, or the key is of another builder.
    """
    store = JobStore.find(job_id)
    network = network_of(store, rpc_url=rpc_url, key=key, passphrase_file=passphrase_file)
    if store.state().phase == "proposed":
        from usufruct.builder.proposal import Proposal

        proposal = Proposal(network, store, model, validation)
        proposal.wait(grant_timeout_seconds)
        return proposal.open(sponsorship=sponsorship)
    from usufruct.builder.job import JobHandle

    return JobHandle(JobBook(network, store), model, validation)


def network_of(
    store: JobStore,
    *,
    rpc_url: str | None = None,
    key: str | Path | None = None,
    passphrase_file: str | Path | None = None,
) -> Network:
    """Connects as the job was opened.

    Raises:
        ConfigError: the key is of another builder.
    """
    record = store.record()
    network = connect(
        rpc_url or record.rpc_url,
        contract=record.compute_access,
        key=key or record.key_path,
        passphrase_file=passphrase_file,
        confirmations=record.confirmations,
    )
    if network.address != record.builder:
        raise ConfigError(
            f"The job was opened by {record.builder}, and this key is of {network.address}.",
            reason="KEY_INVALID",
        )
    return network
