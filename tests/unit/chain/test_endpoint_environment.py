"""What the environment says of proxies, certificates and credentials holds for an endpoint, as it was at its first request."""

from __future__ import annotations

from pathlib import Path

import pytest

from usufruct.chain.endpoint import _Way


def test_a_connection_keeps_to_the_environment_it_was_made_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    roots, netrc = tmp_path / "our-roots.pem", tmp_path / "netrc"
    roots.touch()
    netrc.write_text("machine node.example login us password secret")
    netrc.chmod(0o600)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(roots))
    monkeypatch.setenv("NETRC", str(netrc))
    far, near = _Way("https://node.example/key"), _Way("https://127.0.0.1:8545")
    assert far.pool.proxy is not None
    assert (far.pool.proxy.host, far.pool.proxy.port) == ("proxy.example", 3128)
    assert near.pool.proxy is None
    assert far.pool.ca_certs == near.pool.ca_certs == str(roots)
    assert {far.pool.cert_reqs, near.pool.cert_reqs} == {"CERT_REQUIRED"}
    assert far.headers["Authorization"].startswith("Basic ")
    assert "Authorization" not in near.headers


def test_certificates_are_checked_where_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    pool = _Way("https://127.0.0.1:8545").pool
    assert pool.cert_reqs == "CERT_REQUIRED"
