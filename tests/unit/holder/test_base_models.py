"""A holder's base models: what is taken into the folder, and which jobs are refused because of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from holder_world import Builder, registered
from safetensors.numpy import save_file
from torch import nn
from typer.testing import CliRunner

import usufruct as uf
from usufruct import graph
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import ConfigError, UsufructError
from usufruct.v1 import jobs_pb2
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.jobs import spec_to_bytes
from usufruct.wire.model_graph import graph_to_bytes
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.base_models import BaseModels
from usufruct_server.holder.commands import app
from usufruct_server.holder.config import BaseModelsConfig, read_config
from usufruct_server.holder.server import HolderServer

TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.fixture
def folder(tmp_path: Path) -> BaseModels:
    return BaseModels(BaseModelsConfig(tmp_path / "state" / "models"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As somebody else's program wrote it."""
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def _reason(call: object, *arguments: object) -> str:
    with pytest.raises(UsufructError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.reason


# -- the folder ----------------------------------------------------------------------------------------------------------


def test_a_base_model_is_kept_under_its_digest(folder: BaseModels, file: Path) -> None:
    stored = folder.add(file)
    assert (stored.tensors, stored.parameters) == (2, 8)
    assert stored.digest == "sha256:" + hashlib.sha256(stored.path.read_bytes()).hexdigest()
    assert stored.path.stem == stored.digest.removeprefix("sha256:")
    assert folder.add(stored.path) == folder.add(file) == stored, "again does no harm"
    assert folder.all() == (stored,)
    found = folder.find(graph.read_digest(stored.digest))
    assert found is not None and found.path == str(stored.path)
    assert folder.find(b"") is None, "of a job without a base model"
    folder.remove(graph.read_digest(stored.digest))
    assert folder.all() == ()
    assert _reason(folder.find, graph.read_digest(stored.digest)) == "BASE_MODEL_UNKNOWN"
    assert _reason(folder.remove, graph.read_digest(stored.digest)) == "BASE_MODEL_UNKNOWN"


@pytest.mark.parametrize("value", [np.nan, -np.inf, 2e4])
def test_a_hostile_file_leaves_nothing_behind(folder: BaseModels, tmp_path: Path, value: float) -> None:
    save_file({**TENSORS, "b": np.full(2, value, np.float32)}, tmp_path / "bad")
    assert _reason(folder.add, tmp_path / "bad") == "BASE_MODEL_INVALID"
    (tmp_path / "pickle").write_bytes(b"\x80\x04cposix\nsystem\n(S'true'\ntR." * 9)
    assert _reason(folder.add, tmp_path / "pickle") == "BASE_MODEL_INVALID"
    assert folder.all() == ()
    assert not (tmp_path / "state").exists()


def test_a_file_above_the_holders_own_limit_is_refused(tmp_path: Path, file: Path) -> None:
    narrow = BaseModels(BaseModelsConfig(tmp_path / "models", file.stat().st_size - 1))
    with pytest.raises(ConfigError, match="are allowed"):
        narrow.add(file)


def test_damage_on_disk_is_found(folder: BaseModels, file: Path) -> None:
    path = folder.add(file).path
    assert folder.check() == 1
    whole = path.read_bytes()
    for damaged in (whole[:-1] + b"\x01", whole[:-4], b""):
        path.chmod(0o600)
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=path.name) as caught:
            folder.check()
        assert caught.value.reason == "BASE_MODEL_INVALID"
    folder.add(file)
    assert folder.check() == 1, "adding it again mends it"


def test_the_commands_add_list_and_remove(tmp_path: Path, file: Path) -> None:
    config = tmp_path / "holder.toml"
    config.write_text(
        f'[holder]\nname = "n"\nlisten = "127.0.0.1:1"\n[chain]\nrpc_url = "http://127.0.0.1:1"\nchain_id = 1\n'
        f'compute_access = "{ADDRESS}"\n[keys]\noperator = "o.json"\n[base_models]\nfolder = "mine"\n'
    )
    assert read_config(config).base_models.folder == tmp_path / "mine"

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["base-model", *words, "--config", str(config)])
        assert done.exit_code == 0, done.output
        return done.stdout

    digest = run("add", str(file)).split()[0]
    assert graph.read_digest(digest) == graph.BaseModel(TENSORS).digest
    assert run("list").startswith(digest)
    (row,) = json.loads(run("list", "--json"))
    assert (row["digest"], row["tensors"], row["parameters"]) == (digest, 2, 8)
    assert Path(row["path"]).parent == tmp_path / "mine"
    run("remove", digest)
    assert json.loads(run("list", "--json")) == []


# -- jobs ----------------------------------------------------------------------------------------------------------------


def _adapted() -> nn.Module:
    torch.manual_seed(3)
    return uf.lora(nn.Linear(2, 1), rank=1)


def _spec(served: HolderServer, builder: Builder, model: nn.Module, base_model: bytes) -> TrainingJobSpec:
    """A job with this model and base model, at the price of its parameters."""
    traced = graph.trace(model, (2,))
    spec = builder.spec(registered(served.config))
    encryption = replace(spec.encryption, parameter_count=traced.bounds.parameters)
    return replace(
        spec, model_graph=graph_to_bytes(traced.graph), encryption=encryption, base_model=base_model
    )


def _answer(served: HolderServer, peer: PinnedEndpoint, builder: Builder, spec: TrainingJobSpec) -> str:
    proposal = builder.propose(peer, registered(served.config), spec_to_bytes(spec), spec.nonce.hex())
    if proposal.state == jobs_pb2.PROPOSAL_STATE_GRANTED:
        return "granted"
    records = [record_from_bytes(data) for data in served.ledger.usage_records(0, 10_000)]
    logged = [r.reason for r in records if r.kind is UsageKind.REFUSED and r.job_id == spec.job_id]
    assert logged == [proposal.reason]
    return str(proposal.reason)


def test_a_job_needs_its_base_model_here_and_with_all_it_freezes(
    served: HolderServer, peer: PinnedEndpoint, builder: Builder, tmp_path: Path
) -> None:
    folder, model = BaseModels(served.config.base_models), _adapted()
    digest = graph.read_digest(uf.save_base_model(model, tmp_path / "base"))

    def answer(asked: nn.Module, base_model: bytes) -> str:
        return _answer(served, peer, builder, _spec(served, builder, asked, base_model))

    assert answer(model, digest) == "BASE_MODEL_UNKNOWN"
    assert answer(model, bytes(32)) == "BASE_MODEL_UNKNOWN"
    folder.add(tmp_path / "base")
    assert answer(model, digest) == "granted"
    assert answer(model, b"") == "SPEC_INVALID", "frozen parameters of no base model"
    assert answer(nn.Linear(2, 1), digest) == "SPEC_INVALID", "a base model for nothing"
    other = uf.lora(nn.Sequential(nn.Linear(2, 1)), rank=1)
    assert answer(other, digest) == "GRAPH_NOT_ALLOWED", "the base model has no '0.weight'"
    path = Path(folder.find(digest).path)  # type: ignore[union-attr]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-4])
    assert answer(model, digest) == "BASE_MODEL_INVALID"
    folder.remove(digest)


def test_a_leg_whose_base_model_is_gone_or_changed_does_not_begin(
    served: HolderServer, builder: Builder, tmp_path: Path
) -> None:
    folder, model = BaseModels(served.config.base_models), _adapted()
    digest = graph.read_digest(uf.save_base_model(model, tmp_path / "base"))
    spec = _spec(served, builder, model, digest)
    dataset = served.catalogue.all()[0]
    assert _reason(served.trainers.for_leg, spec, dataset) == "BASE_MODEL_UNKNOWN"
    path = folder.add(tmp_path / "base").path
    other = graph.BaseModel({name: values + 1 for name, values in graph.base_of(model).tensors.items()})
    other.write(path)
    assert _reason(served.trainers.for_leg, spec, dataset) == "BASE_MODEL_INVALID"
    folder.add(tmp_path / "base")
    assert served.trainers.for_leg(spec, dataset).alive
    served.trainers.end((spec.job_id, dataset.dataset_id))
    folder.remove(digest)
