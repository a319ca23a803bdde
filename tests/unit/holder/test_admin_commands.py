"""The admin key's commands do on chain what they say, and a changed policy is seen and put there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from holder_world import GRANT_ALL, Builder, Place, World, free_port, registered, server_of, zygote
from typer.testing import CliRunner

from usufruct.errors import ConfigError, InvalidInput, UsufructError
from usufruct.v1 import catalogue_pb2, catalogue_pb2_grpc
from usufruct.wire.channel import pinned_channel
from usufruct.wire.jobs import spec_to_bytes
from usufruct_server.holder.commands import app
from usufruct_server.holder.config import read_config
from usufruct_server.holder.doctor import Doctor
from usufruct_server.holder.opening import open_admin, open_operator
from usufruct_server.holder.register import register

DAY = 86_400


def _run(place: Place, *words: str) -> Any:
    """What `usufruct holder …  --json` prints."""
    done = CliRunner().invoke(app, [*words, "--config", str(place.server.config.path), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout.splitlines()[-1])


def test_all_grants_or_one_are_withdrawn(quiet: Place, customer: Builder) -> None:
    reasons = []
    for words in (["--all"], ["--grant"]):
        spec = customer.spec(quiet.dataset_id)
        data = spec_to_bytes(spec)
        proposal = customer.propose(quiet.peer, quiet.dataset_id, data, words[0])
        stored = quiet.server.store.proposal(spec.job_id, quiet.dataset_id)
        assert stored is not None
        named = [*words, "0x" + stored.document_hash.hex()] if words == ["--grant"] else words
        _run(quiet, "revoke", *named)
        with pytest.raises(UsufructError) as caught:
            customer.open(spec, data, proposal)
        reasons.append(caught.value.reason)
    assert reasons == ["GRANT_REVOKED", "GRANT_CANCELLED"]
    with pytest.raises(InvalidInput, match="No grant of this holder"):
        _run(quiet, "revoke", "--grant", "0xabcdef")
    with pytest.raises(InvalidInput, match="Say which"):
        _run(quiet, "revoke")


def test_earnings_are_shown_and_go_to_the_payout_address(quiet: Place, customer: Builder) -> None:
    spec = customer.started(quiet.peer, quiet.dataset_id)
    customer.deliver(
        spec.job_id, quiet.dataset_id, customer.finish(quiet.peer, spec.job_id, quiet.dataset_id, 0)
    )
    shown, price = _run(quiet, "earnings"), spec.leg(quiet.dataset_id).price_units
    (row,) = shown["earnings"]
    assert int(row["units"]) >= price > 0
    before = quiet.world.chain.token_balance(quiet.world.token, shown["payout"])
    (sent,) = _run(quiet, "withdraw")["withdrawn"]
    assert sent["units"] == row["units"]
    after = quiet.world.chain.token_balance(quiet.world.token, shown["payout"])
    assert after - before == int(row["units"])
    assert _run(quiet, "withdraw")["withdrawn"] == []


def test_another_payout_address_waits_48_hours(quiet: Place) -> None:
    other, now = Account.create().address, _run(quiet, "payout")["payout"]
    announced = _run(quiet, "payout", other)
    assert (announced["payout"], announced["next_payout"]) == (now, other)
    assert _run(quiet, "payout", other) == announced, "announced once"
    with pytest.raises(UsufructError):
        _run(quiet, "payout", "--apply")
    with pytest.raises(ConfigError, match="No such change"):
        _run(quiet, "payout", now, "--apply")
    quiet.world.pass_time(2 * DAY + 1)
    assert _run(quiet, "payout", "--apply")["payout"] == other


@pytest.fixture
def another_policy(quiet: Place) -> Iterator[None]:
    path = quiet.server.config.path
    text = path.read_text()
    path.write_text(text.replace("max_rounds = 11000", "max_rounds = 5000"))
    yield
    path.write_text(text)
    _run(quiet, "register")


@pytest.mark.usefixtures("another_policy")
def test_a_changed_policy_is_found_and_put_on_chain_by_register(quiet: Place) -> None:
    config = read_config(quiet.server.config.path)
    (finding,) = (f for f in Doctor(config, zygote()).findings() if f.check == "registration")
    assert not finding.ok
    assert "the published policy is another one on chain; run `usufruct holder register`" in finding.text
    with pytest.raises(ConfigError, match="the published policy is another one"):
        server_of(config)
    _run(quiet, "register")
    (finding,) = (f for f in Doctor(config, zygote()).findings() if f.check == "registration")
    assert finding.ok, finding.text
    assert _run(quiet, "register")["steps"] == []


def test_the_doctor_says_when_no_job_can_have_a_cohort_of_known_holders(quiet: Place) -> None:
    config = read_config(quiet.server.config.path)
    datasets = (replace(config.datasets[0], min_cohort=3),)
    for co_holders, fine in (((), False), ((7,), False), ((7, 8), True)):
        policy = replace(config.policy, co_holders=co_holders)
        doctor = Doctor(replace(config, datasets=datasets, policy=policy), zygote())
        finding = next(found for found in doctor.findings() if found.check == "cohorts")
        assert finding.ok is fine
        assert fine or "[policy] co_holders" in finding.text


def test_a_changed_card_is_registered_as_what_somebody_says_it_is(world: World) -> None:
    config = world.holder("versions", port=free_port())
    first, card, text = registered(config), config.datasets[0].card, config.path.read_text()
    card.write_bytes(card.read_bytes().replace(b'"nominal_size":60', b'"nominal_size":61'))

    def put() -> set[int]:
        return set(
            register(
                read_config(config.path), world.chain, open_admin(config), None, list[str]().append
            ).datasets.values()
        )

    with pytest.raises(ConfigError, match=f"previous_id = {first}.*retire {first}"):
        put()
    config.path.write_text(text.replace("min_cohort = 1", f"min_cohort = 1\nprevious_id = {first}"))
    (second,) = put() - {first}
    entry = world.chain.dataset(second)
    assert (entry.previous_id, world.chain.dataset(first).active) == (first, False)
    assert put() == {first, second}, "registered once"


def test_a_ledger_starts_with_what_the_chain_says_is_spent_of_an_earlier_version(
    quiet: Place, customer: Builder
) -> None:
    """The same people are behind both: what one version lost, the other cannot lose again."""
    config = quiet.world.holder("older", port=free_port())
    server = server_of(config)
    server.start()
    place = Place(quiet.world, server)
    spec = customer.started(place.peer, place.dataset_id)
    customer.deliver(
        spec.job_id, place.dataset_id, customer.finish(place.peer, spec.job_id, place.dataset_id, 0)
    )
    server.stop()
    lost = spec.reservation_micro(place.dataset_id)
    card, first = config.datasets[0].card, place.dataset_id
    card.write_bytes(card.read_bytes().replace(b'"nominal_size":60', b'"nominal_size":61'))
    text = config.path.read_text()
    config.path.write_text(text.replace("min_cohort = 1", f"min_cohort = 1\nprevious_id = {first}"))
    newer = read_config(config.path)
    found = register(newer, quiet.world.chain, open_admin(config), None, list[str]().append)
    (second,) = set(found.datasets.values()) - {first}
    server = server_of(newer, open_operator(config))
    assert server.ledger.budget(second).spent_micro == lost == quiet.world.chain.dataset(second).spent_micro
    server.close()


def test_a_dataset_is_retired_for_good(quiet: Place) -> None:
    config = quiet.world.holder("retiring", port=free_port())
    done = CliRunner().invoke(
        app, ["retire", str(registered(config)), "--config", str(config.path), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert not quiet.world.chain.dataset(registered(config)).active


def test_the_registered_price_is_the_one_that_is_asked(quiet: Place) -> None:
    policy = f"{GRANT_ALL}\nmin_price_units = {10**9}"
    config = quiet.world.holder("dear", port=free_port(), policy=policy)
    assert quiet.world.chain.dataset(registered(config)).price_units == 10**9


def test_the_published_policy_is_the_one_that_is_registered_and_names_no_builder(quiet: Place) -> None:
    channel = pinned_channel(quiet.peer.endpoint, quiet.peer.fingerprint)
    stub = catalogue_pb2_grpc.CatalogueServiceStub(channel)  # type: ignore[no-untyped-call]
    answer = stub.GetDatasetCard(catalogue_pb2.GetDatasetCardRequest(dataset_id=quiet.dataset_id))
    channel.close()
    assert keccak(answer.policy) == quiet.world.chain.dataset(quiet.dataset_id).policy_hash
    policy = json.loads(answer.policy)
    assert json.dumps(policy, sort_keys=True, separators=(",", ":")).encode() == answer.policy, "canonical"
    assert (policy["max_attempts_per_job"], policy["arbiters"]) == (11_000, [])
    assert policy["longest_challenge_seconds"] == 7 * DAY
    assert not any("builders" in key and key != "unknown_builders" for key in policy)


def test_the_doctor_compares_the_ledger_with_what_the_chain_has_seen(quiet: Place) -> None:
    (finding,) = (f for f in Doctor(quiet.server.config, zygote()).findings() if f.check == "history")
    assert finding.ok
    assert f"fencing epoch {quiet.server.fencing.epoch}" in finding.text
