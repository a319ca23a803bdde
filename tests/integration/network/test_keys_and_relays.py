"""A relay may be between any two parties. Another key, or bytes that were changed on the way, may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clinics import HOSPITALS, TRIO, Clinics, Relay, model, port_of

from usufruct.builder.peers import HolderPeer
from usufruct.errors import PeerKeyMismatch, UsufructError
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.tls import fingerprint_text

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

HANDSHAKE_BYTES = 4096
"""More than a client ever sends in a TLS 1.3 handshake."""


@pytest.fixture
def misled(clinics: Clinics) -> Iterator[Clinics]:
    """The second hospital's endpoint leads to the third one."""
    right = clinics.relay.target_port
    clinics.relay.target_port = port_of(clinics.local.places[HOSPITALS[2]].endpoint)
    clinics.relay.hang_up()
    yield clinics
    clinics.relay.target_port = right
    clinics.relay.hang_up()


@pytest.fixture
def relay(clinics: Clinics) -> Iterator[Relay]:
    """In front of the aggregator."""
    relay = Relay(port_of(clinics.local.aggregator.partition("#")[0]))
    yield relay
    relay.close()


def test_another_key_is_named_and_nothing_is_sent_to_it(misled: Clinics) -> None:
    chain = misled.first.chain
    agreed, shown = (fingerprint_text(chain.holder(number).fingerprint) for number in (2, 3))
    connections, sent = misled.relay.connections, misled.relay.sent
    with misled.nothing_used() as logged, pytest.raises(PeerKeyMismatch) as caught:
        HolderPeer(
            2, PinnedEndpoint(misled.relay.endpoint, chain.holder(2).fingerprint), misled.first.account
        )
    assert caught.value.reason == "PEER_KEY_MISMATCH"
    assert f"shows the key {shown}, but {agreed} is pinned" in caught.value.message
    assert misled.relay.connections - connections == 1, "it was looked at, and gRPC never connected"
    assert 0 < misled.relay.sent - sent < HANDSHAKE_BYTES
    assert logged == []


def test_a_job_is_not_proposed_to_anyone_while_one_holder_shows_another_key(
    clinics: Clinics, misled: Clinics
) -> None:
    listed = misled.first.datasets(ids=TRIO)
    assert [dataset.id for dataset in listed] == [1, 3]
    (gone,) = listed.unreachable
    assert (gone.dataset_id, gone.reason) == (2, "PEER_KEY_MISMATCH")
    misled.relay.target_port = port_of(misled.local.places[HOSPITALS[1]].endpoint)
    hospitals = misled.first.datasets(ids=TRIO)
    misled.relay.target_port = port_of(misled.local.places[HOSPITALS[2]].endpoint)
    with misled.nothing_used() as logged, pytest.raises(UsufructError) as caught:
        misled.first.train(model(), hospitals, **misled.settings())
    assert caught.value.reason == "PEER_KEY_MISMATCH"
    assert "dataset 2" in caught.value.message
    assert logged == []


def test_an_aggregator_with_another_key_gets_no_job(clinics: Clinics) -> None:
    endpoint = clinics.local.aggregator.partition("#")[0]
    other = fingerprint_text(bytes(31) + b"\x01")
    with clinics.nothing_used() as logged, pytest.raises(UsufructError) as caught:
        clinics.train(aggregator=f"{endpoint}#{other}")
    assert caught.value.reason == "PEER_KEY_MISMATCH"
    assert "aggregator" in caught.value.message
    assert other in caught.value.message
    assert logged == []


def test_a_ciphertext_changed_on_the_way_is_never_summed_and_is_sent_again(
    clinics: Clinics, relay: Relay
) -> None:
    key = clinics.local.aggregator.partition("#")[2]
    job = clinics.train(aggregator=f"{relay.endpoint}#{key}")
    rounds = iter(job)
    first = next(rounds)
    relay.spoil_after = first.upload_bytes // len(TRIO) // 2
    second = next(rounds)
    assert relay.spoilt.is_set()
    assert (second.index, second.attempt) == (2, 2), (
        "the holder sends the same bytes again, over a new connection"
    )
    assert list(rounds) == []
    assert job.finished
    assert all(receipt.acknowledged and not receipt.findings for receipt in job.receipts)
    for dataset_id, name in zip(TRIO, HOSPITALS, strict=True):
        with clinics.ledger(name) as book:
            assert book.charged_attempts(dataset_id, job.spec.job_id) == ((1, 1), (2, 2)), (
                "no noise was drawn again"
            )
