"""One network for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from charged import WatchedNetwork
from clinics import TRIO, Clinics, Finished, Relay, holders, model, port_of

import usufruct as uf
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.wire.channel import PinnedEndpoint


@pytest.fixture(scope="package")
def clinics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinics]:
    folder = tmp_path_factory.mktemp("clinics")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = os.environ.get("USUFRUCT_HOME")
    os.environ["USUFRUCT_HOME"] = str(folder / "home")
    relay = Relay()
    try:
        with WatchedNetwork(folder / "net", holders(relay)) as local:
            relay.target_port = port_of(local.places["hospital-2"].endpoint)
            first, second = (
                uf.connect(local.rpc_url, contract=local.compute_access, key=key)
                for key in (local.builder_key, local.create_builder("second", 0))
            )
            at = {}
            for dataset in first.chain.datasets():
                entry = first.chain.holder(dataset.holder_id)
                at[dataset.dataset_id] = PinnedEndpoint(entry.endpoint, entry.fingerprint)
            yield Clinics(local, relay, first, second, at)
    finally:
        relay.close()
        torch.set_num_threads(threads)
        os.environ.pop("USUFRUCT_HOME")
        if before is not None:
            os.environ["USUFRUCT_HOME"] = before


@pytest.fixture(scope="package")
def finished(clinics: Clinics) -> Finished:
    """The happy path, run once."""
    hospitals = clinics.first.datasets(ids=TRIO)
    settings = clinics.settings()
    quote = clinics.first.quote(model(), hospitals, **settings)
    proposal = clinics.first.propose(model(), hospitals, **settings)
    proposal.wait(30.0)
    asked = proposal.epsilon_asked
    job = proposal.open()
    return Finished(quote, asked, tuple(job), job)


@pytest.fixture(scope="package")
def granted(clinics: Clinics) -> TrainingJobSpec:
    """A job of the first builder that all three hospitals have granted and nobody opens."""
    proposal = clinics.first.propose(model(), clinics.first.datasets(ids=TRIO), **clinics.settings())
    assert [leg.state for leg in proposal.status()] == ["GRANTED"] * 3
    return proposal.spec
