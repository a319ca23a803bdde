"""Seconds a round of NVIDIA FLARE in POC mode: a server and three clients as processes, mutual TLS, its HE or none.

FLARE provisions its own POC workspace with its own defaults (with HE: CKKS, 8192, [60, 40, 40], 2^40). The job is the
workflow of its FedAvg-with-HE recipe, but numpy instead of torch: scatter and gather, all parameters in one layer,
weights (not differences), all three clients needed.

    .cache/bench-peers/flare/bin/python tests/benchmarks/peers/flare.py --parameters 100000 --rounds 5 [--clear] --json
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from federation import HOLDERS, Federation, arguments, free_ports, report
from nvflare.fuel.flare_api.flare_api import new_secure_session
from nvflare.lighter.utils import load_yaml
from nvflare.tool.poc.poc_commands import (
    add_he_builder,
    gen_project_config_file,
    prepare_poc_provision,
    save_project_config,
    update_clients,
)

SERVER = "localhost"
ADMIN = "admin@nvidia.com"
STARTED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*Round (\d+) started\.", re.MULTILINE)
FINISHED = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*Finished ScatterAndGather Training", re.MULTILINE
)
FAILED = re.compile(
    r"^.*(?:system_panic|SystemPanic|Aborting current RUN|UnsafeComponentError).*$", re.MULTILINE
)


def component(path: str, **values: Any) -> dict[str, Any]:
    return {"path": path, "args": values}


def write_job(folder: Path, parameters: int, rounds: int, encrypted: bool) -> None:
    """The job as FLARE takes it: ``meta.json`` and one app with both configurations and its own code."""
    parts = {
        "persistor": component(
            "flare_job.ZerosPersistor",
            parameters=parameters,
            **({"filter_id": "serialize"} if encrypted else {}),
        )
    }
    task_data: list[dict[str, Any]] = []
    task_results: list[dict[str, Any]] = []
    if encrypted:
        parts["shareable_generator"] = component(
            "nvflare.app_opt.he.model_shareable_generator.HEModelShareableGenerator"
        )
        parts["aggregator"] = component(
            "nvflare.app_opt.he.intime_accumulate_model_aggregator.HEInTimeAccumulateWeightedAggregator",
            expected_data_kind="WEIGHTS",
            weigh_by_local_iter=False,
        )
        parts["serialize"] = component("nvflare.app_opt.he.model_serialize_filter.HEModelSerializeFilter")
        decrypt = component("nvflare.app_opt.he.model_decryptor.HEModelDecryptor")
        encrypt = component("nvflare.app_opt.he.model_encryptor.HEModelEncryptor", weigh_by_local_iter=True)
        task_data = [{"tasks": ["train"], "filters": [decrypt]}]
        task_results = [{"tasks": ["train"], "filters": [encrypt]}]
    else:
        parts["shareable_generator"] = component(
            "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator"
        )
        parts["aggregator"] = component(
            "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator",
            expected_data_kind="WEIGHTS",
        )
    workflow = component(
        "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
        min_clients=HOLDERS,
        num_rounds=rounds,
        wait_time_after_min_received=0,
        aggregator_id="aggregator",
        persistor_id="persistor",
        shareable_generator_id="shareable_generator",
    )
    server = {
        "format_version": 2,
        "workflows": [{"id": "scatter_and_gather", **workflow}],
        "components": [{"id": name, **part} for name, part in parts.items()],
    }
    client = {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": component("flare_job.AddStep")}],
        "task_data_filters": task_data,
        "task_result_filters": task_results,
        "components": [],
    }
    meta = {
        "name": "bench-round",
        "resource_spec": {},
        "deploy_map": {"app": ["@ALL"]},
        # All three: a job that starts with two of them never ends a round that waits for three.
        "min_clients": HOLDERS,
        "mandatory_clients": [f"site-{index + 1}" for index in range(HOLDERS)],
    }
    (folder / "app" / "config").mkdir(parents=True)
    (folder / "app" / "custom").mkdir()
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "app" / "config" / "config_fed_server.json").write_text(json.dumps(server))
    (folder / "app" / "config" / "config_fed_client.json").write_text(json.dumps(client))
    shutil.copy(Path(__file__).with_name("flare_job.py"), folder / "app" / "custom")


def provision(workspace: Path, encrypted: bool) -> Path:
    """FLARE's POC start-up kits, at a free port and with a server that listens on loopback only; their folder."""
    folder = workspace / "poc"
    folder.mkdir()
    (port,) = free_ports(1)
    project_file = Path(gen_project_config_file(str(folder)))
    project = update_clients([], HOLDERS, load_yaml(str(project_file)))
    project = add_he_builder(encrypted, project)
    for participant in project["participants"]:
        if participant["type"] == "server":
            # The kits are signed, so this cannot be changed later. Any other name makes it listen on every interface.
            participant |= {"name": SERVER, "fed_learn_port": port, "admin_port": port}
    own_file = workspace / "project.yml"
    save_project_config(project, str(own_file))
    with contextlib.redirect_stdout(sys.stderr):
        prepare_poc_provision(
            clients=[],
            number_of_clients=HOLDERS,
            workspace=str(folder),
            docker_image="",
            use_he=encrypted,
            project_conf_path=str(own_file),
        )
    return folder / project["name"] / "prod_00"


def seconds_per_round(log: str) -> list[float] | None:
    """From start to start (the last: to the end of training) in the server's log of the job, without round 0.

    Raises:
        RuntimeError: the log says that the job failed.
    """
    if failure := FAILED.search(log):
        raise RuntimeError(failure[0])
    end = FINISHED.search(log)
    if end is None:
        return None
    times = [datetime.fromisoformat(found[1]) for found in STARTED.finditer(log)]
    times.append(datetime.fromisoformat(end[1]))
    return [(after - before).total_seconds() for before, after in pairwise(times[1:])]


def measure(parameters: int, rounds: int, encrypted: bool, timeout_seconds: float) -> list[float]:
    """Run ``rounds`` + 1 rounds; seconds of each but the first, as the server's log has them."""
    with Federation(timeout_seconds) as federation:
        kits = provision(federation.workspace, encrypted)
        for kit in [kits / SERVER, *sorted(kits.glob("site-*"))]:
            # The kit's own script, told not to restart what ends.
            federation.start(kit.name, ["bash", str(kit / "startup" / "sub_start.sh"), "--once"])

        job = federation.workspace / "job"
        write_job(job, parameters, rounds + 1, encrypted)

        def log_in() -> Any:
            with contextlib.suppress(Exception):  # whatever it is, the server is not up yet
                return new_secure_session(ADMIN, str(kits / ADMIN), timeout=5.0)
            return None

        def all_connected() -> bool | None:
            return len(session.get_system_info().client_info) == HOLDERS or None

        with contextlib.redirect_stdout(sys.stderr):
            session = federation.wait_for("log-in", log_in)
            try:
                federation.wait_for("three clients", all_connected)
                run = kits / SERVER / session.submit_job(str(job))

                def ended() -> list[float] | None:
                    log = run / "log.txt"
                    return seconds_per_round(log.read_text(errors="replace")) if log.exists() else None

                return federation.wait_for("end of the job", ended)
            finally:
                session.close()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clear", action="store_true", help="without encryption")
    options = parser.parse_args()
    seconds = measure(options.parameters, options.rounds, not options.clear, options.timeout_seconds)
    result = {
        "peer": "NVIDIA FLARE, POC mode" + ("" if options.clear else ", HE"),
        "version": version("nvflare"),
        "parameters": options.parameters,
        "encrypted": not options.clear,
        "seconds_per_round": seconds,
    }
    report(result, options.json)


if __name__ == "__main__":
    main()
