"""The Docker and Kubernetes pools of docs/anywhere.md: what their workers start for a deployment.

The patches of docs/pools, the workers' own templates and a real server; the job that a worker would hand over
is checked against Kubernetes' schema. No Docker and no cluster is needed.
"""

import asyncio
import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from pydantic import SecretStr
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.e2e.deployment_server import BIN

pytestmark = pytest.mark.distributed

SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-s3-id",
    "AWS_SECRET_ACCESS_KEY": "planted-s3-key",
    "WANDB_API_KEY": "planted-wandb-key",
    "GIT_TOKEN": "planted-git-token",
}
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


@pytest.fixture(scope="module")
def integrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The packages of the dependency group `pools`, in a folder that these tests import from."""
    folder = tmp_path_factory.mktemp("integrations")
    lock = ROOT / "tests/docs/pools.lock"
    options = ["--quiet", "--no-deps", "--require-hashes", "--python", sys.executable]
    done = subprocess.run(
        [str(BIN / "uv"), "pip", "install", *options, "--target", str(folder), "-r", str(lock)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"cannot install {lock}: {done.stderr}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def read_template(worker: Any) -> dict[str, Any]:
    """The base job template of the pool, as the commands of the page make it."""
    patch = json.loads((ROOT / f"docs/pools/{worker.type}.json").read_text(encoding="utf-8"))
    return dict(jsonpatch.apply_patch(worker.get_default_base_job_template(), patch))


def prepare_job(worker: Any) -> tuple[Any, str]:
    """What the worker would start for a run of `retrain-anywhere`, and all that the server holds about it."""
    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    (entry,) = (entry for entry in deployments if entry["name"] == "retrain-anywhere")

    async def prepare() -> tuple[Any, str]:
        async with get_client() as client:
            create = WorkPoolCreate(
                name=worker.type, type=worker.type, base_job_template=read_template(worker)
            )
            pool = await client.create_work_pool(create, overwrite=True)
            flow_id = await client.create_flow_from_name("retrain")
            deployment_id = await client.create_deployment(
                flow_id,
                f"{entry['name']}-{worker.type}",
                work_pool_name=pool.name,
                job_variables=entry["work_pool"]["job_variables"],
            )
            run = await client.create_flow_run_from_deployment(deployment_id)
            job = await worker.job_configuration.resolve_for_flow_run(
                run, client=client, work_pool=pool, worker_name="worker"
            )
            held = [pool, await client.read_deployment(deployment_id), await client.read_flow_run(run.id)]
        return job, "".join(each.model_dump_json() for each in held)

    return asyncio.run(prepare())


def ask_git_for_password(env: dict[str, str]) -> str:
    """What Git would send to a server that asks for a password."""
    found = subprocess.run(
        ["git", "credential", "fill"],
        input="protocol=https\nhost=example.org\n\n",
        env={"PATH": os.environ["PATH"]} | {name: env[name] for name in env if name.startswith("GIT_")},
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout


@pytest.mark.usefixtures("prefect_server", "integrations")
def test_docker_worker_starts_the_image_with_cache_and_secrets() -> None:
    from prefect_docker.worker import DockerWorker

    for name, value in SECRETS.items():
        Secret(value=SecretStr(value)).save(name.lower().replace("_", "-"), overwrite=True)
    job, held = prepare_job(DockerWorker)
    assert (job.image, job.image_pull_policy, job.volumes) == (
        "cifarflow",
        "IfNotPresent",
        ["cifarflow-cache:/cache"],
    )
    assert job.env.items() >= (SECRETS | HEARTBEAT).items()
    assert job.command == "prefect flow-run execute"
    assert "password=planted-git-token" in ask_git_for_password(job.env)
    assert not [value for value in SECRETS.values() if value in held]


@pytest.mark.usefixtures("prefect_server", "integrations")
def test_kubernetes_worker_starts_a_job_that_kubernetes_accepts() -> None:
    from kubernetes_validate import validate
    from kubernetes_validate.utils import all_versions
    from prefect_kubernetes.worker import KubernetesWorker

    job, held = prepare_job(KubernetesWorker)
    manifest = job.job_manifest
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.org/cifarflow:1"
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "fsGroup": 1000}
    assert container["envFrom"] == [{"secretRef": {"name": "cifarflow"}}]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env.items() >= HEARTBEAT.items()
    assert not SECRETS.keys() & env.keys()
    assert "password=planted" in ask_git_for_password(env | {"GIT_TOKEN": "planted"})
    assert "planted" not in json.dumps(manifest) + held

    oldest, *_, newest = all_versions()
    for version in (oldest, newest):
        validate(manifest, version)
    # Prefect puts two of the job's fields into the pod as well, where Kubernetes ignores them.
    known = copy.deepcopy(manifest)
    for name in ("parallelism", "completions"):
        del known["spec"]["template"]["spec"][name]
    for each in (known, read_volume_claim()):
        validate(each, newest, strict=True)
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == read_volume_claim()["metadata"]["name"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/cache"}]


def read_volume_claim() -> dict[str, Any]:
    text = (ROOT / "docs/anywhere.md").read_text(encoding="utf-8")
    found = re.search(r"kubectl apply -f - <<'EOF'\n(.*?)^EOF$", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return dict(YAML(typ="safe").load(found[1]))


@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_dvc_in_the_image_has_its_cache_where_the_pool_mounts_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.config import Config

    patch = json.loads((ROOT / f"docs/pools/{name}.json").read_text(encoding="utf-8"))
    (env,) = (change["value"] for change in patch if change["path"] == "/variables/properties/env/default")
    (step,) = re.findall(r"^RUN (mkdir .*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    subprocess.run(["sh", "-c", step.replace("/etc/", f"{tmp_path}/")], check=True)
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", env["DVC_SYSTEM_CONFIG_DIR"].replace("/etc", str(tmp_path)))
    assert Config.from_cwd()["cache"]["dir"] == "/cache"
