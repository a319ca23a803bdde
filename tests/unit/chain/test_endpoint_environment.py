"""What the environment says of proxies and certificates holds for an endpoint, as it was when its session was made."""

from __future__ import annotations

import pytest

from usufruct.chain.endpoint import _session_to


def test_a_session_keeps_to_the_environment_it_was_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/our-roots.pem")
    far, near = _session_to("https://node.example/key"), _session_to("https://127.0.0.1:8545")
    monkeypatch.delenv("HTTPS_PROXY")
    assert far.proxies["https"] == "http://proxy.example:3128"
    assert "https" not in near.proxies
    assert far.verify == near.verify == "/etc/our-roots.pem"
    assert not far.trust_env, "it is not asked again"
