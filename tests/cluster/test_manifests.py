"""The manifests in cluster/ are what KubeRay, Kubernetes and Ray's launcher take, and they agree with raymine.

Kinds of Kubernetes and pods go by its own schemas (kubernetes-validate), the launcher's file by the schema that ray
carries and by EC2's (botocore). The kinds of ray.io have no such package: the models below name the fields that the
manifests use, as KubeRay 1.6 and 1.7 have them (https://docs.ray.io/en/latest/cluster/kubernetes/references.html).
Everywhere an unknown field is an error.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.session
import botocore.validate
import jsonschema
import kubernetes_validate
import pydantic
import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from pydantic.alias_generators import to_camel

from raymine import cli
from raymine.config import Config
from raymine.config_file import make_config
from raymine.errors import ConfigError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
KUBERNETES = "1.35"
MANIFESTS = ("config.yaml", "rayjob.yaml", "raycronjob.yaml", "cronjob.yaml")
JOBS = ("rayjob.yaml", "raycronjob.yaml", "cronjob.yaml")


class Fields(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class Pods(Fields):
    ray_start_params: dict[str, str]
    template: dict[str, Any]


class Workers(Pods):
    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int


class RayCluster(Fields):
    ray_version: str
    enable_in_tree_autoscaling: bool
    head_group_spec: Pods
    worker_group_specs: list[Workers]


class RayJob(Fields):
    entrypoint: str
    backoff_limit: int
    active_deadline_seconds: int
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: int
    ray_cluster_spec: RayCluster


class RayCronJob(Fields):
    schedule: str
    job_template: RayJob


class RayObject(Fields):
    """An object of ray.io/v1, with a RayJob's or a RayCronJob's spec."""

    api_version: str
    kind: str
    metadata: dict[str, Any]
    spec: dict[str, Any]


def check(text: str) -> Iterator[RayJob | Config]:
    """Checks every document of a manifest, and those inside its ConfigMaps.

    Yields:
        The jobs and configs in it.
    """
    for document in yaml.safe_load_all(text):
        if document["apiVersion"] == "ray.io/v1":
            yield check_ray(RayObject.model_validate(document))
            continue
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        for name, inner in document.get("data", {}).items():
            if name == "mine.yaml":
                yield make_config(yaml.safe_load(inner))
            else:
                yield from check(inner)


def check_ray(found: RayObject) -> RayJob:
    """Checks a RayJob or RayCronJob and its pods."""
    assert found.kind in ("RayJob", "RayCronJob")
    job = (
        RayJob.model_validate(found.spec)
        if found.kind == "RayJob"
        else RayCronJob.model_validate(found.spec).job_template
    )
    for pods in (job.ray_cluster_spec.head_group_spec, *job.ray_cluster_spec.worker_group_specs):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": found.metadata, "template": pods.template}
        kubernetes_validate.validate(template, KUBERNETES, strict=True)
    return job


def check_launcher(text: str) -> dict[str, Any]:
    """Checks the launcher's file, and each machine as EC2 would."""
    config: dict[str, Any] = yaml.safe_load(text)
    schema = json.loads((importlib.resources.files("ray") / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    request = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in config["available_node_types"].values():
        botocore.validate.validate_parameters({**node["node_config"], "MinCount": 1, "MaxCount": 1}, request)
    return config


def read(name: str) -> str:
    return (FOLDER / name).read_text()


def job_of(name: str) -> RayJob:
    (job,) = [found for found in check(read(name)) if isinstance(found, RayJob)]
    return job


def command_of(name: str) -> list[str]:
    """What a manifest's job runs, word by word."""
    return shlex.split(job_of(name).entrypoint)


def header(name: str) -> str:
    """The comment on top of a file."""
    lines = read(name).splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[:end]) + "\n"


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_valid(name: str) -> None:
    """Each holds one job, or the config."""
    (found,) = check(read(name))
    assert isinstance(found, Config if name == "config.yaml" else RayJob)


def test_the_launchers_file_is_valid() -> None:
    """Its head takes no work, and GPU nodes are up from the start."""
    config = check_launcher(read("launcher.yaml"))
    nodes = config["available_node_types"]
    assert nodes[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert nodes["gpu"]["min_workers"] >= 1 and nodes["gpu"]["max_workers"] == config["max_workers"]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("config.yaml", "metadata"),
        ("config.yaml", "retrieve"),
        ("rayjob.yaml", "spec"),
        ("rayjob.yaml", "backoffLimit"),
        ("rayjob.yaml", "enableInTreeAutoscaling"),
        ("rayjob.yaml", "minReplicas"),
        ("rayjob.yaml", "containers"),
        ("rayjob.yaml", "optional"),
        ("rayjob.yaml", "generateName"),
        ("raycronjob.yaml", "schedule"),
        ("raycronjob.yaml", "ttlSecondsAfterFinished"),
        ("raycronjob.yaml", "tolerations"),
        ("cronjob.yaml", "concurrencyPolicy"),
        ("cronjob.yaml", "verbs"),
        ("cronjob.yaml", "roleRef"),
        ("cronjob.yaml", "entrypoint"),
        ("launcher.yaml", "max_workers"),
        ("launcher.yaml", "container_name"),
        ("launcher.yaml", "InstanceType"),
        ("launcher.yaml", "VolumeSize"),
    ],
)
def test_a_misspelt_field_is_refused(name: str, field: str) -> None:
    """At every level, in every kind, also inside a ConfigMap."""
    text, count = re.subn(rf"\b{field}:", f"{field}z:", read(name), count=1)
    assert count == 1
    refused = (
        pydantic.ValidationError,
        jsonschema.ValidationError,
        botocore.exceptions.ParamValidationError,
        ConfigError,
    )
    with pytest.raises(refused, match=f"{field}z"):
        check_launcher(text) if name == "launcher.yaml" else list(check(text))


@pytest.mark.parametrize("name", JOBS)
def test_a_jobs_command_is_one_that_raymine_takes(name: str) -> None:
    """Its script is there, and `raymine` has the script's command with these arguments; its config is mounted."""
    python, script, *arguments = command_of(name)
    assert python == "python" and (ROOT / script).is_file()
    check_arguments(Path(script).stem, arguments)
    pod = job_of(name).ray_cluster_spec.head_group_spec.template["spec"]
    (mount,), (volume,) = pod["containers"][0]["volumeMounts"], pod["volumes"]
    (config,) = yaml.safe_load_all(read("config.yaml"))
    assert (mount["name"], volume["configMap"]["name"]) == (volume["name"], config["metadata"]["name"])
    assert arguments[0] in [f"{mount['mountPath']}/{key}" for key in config["data"]]


def check_arguments(command: str, arguments: list[str]) -> None:
    """Parses arguments as `raymine <command>` does; an unknown one raises click's UsageError."""
    group = typer.main.get_command(cli.app)
    group.commands[command].make_context(command, list(arguments))


def test_what_each_job_mines() -> None:
    """One names the checkpoint; those of each night look for new ones, and end."""
    assert "--checkpoint" in command_of("rayjob.yaml") and "--once" not in command_of("rayjob.yaml")
    assert command_of("raycronjob.yaml") == command_of("cronjob.yaml")
    assert {"--checkpoints", "--once"} < set(command_of("cronjob.yaml"))


def test_the_three_jobs_differ_in_their_command_only() -> None:
    """Their clusters, limits and retries are the same; the launcher's nodes run the same image."""
    jobs = [job_of(name).model_copy(update={"entrypoint": ""}) for name in JOBS]
    assert jobs[0] == jobs[1] == jobs[2]
    cluster = jobs[0].ray_cluster_spec
    images = {
        container["image"]
        for pods in (cluster.head_group_spec, *cluster.worker_group_specs)
        for container in pods.template["spec"]["containers"]
    }
    assert images == {yaml.safe_load(read("launcher.yaml"))["docker"]["image"]}
    assert jobs[0].backoff_limit > 0 and jobs[0].shutdown_after_job_finishes
    assert cluster.head_group_spec.ray_start_params == {"num-cpus": "0"}
    (workers,) = cluster.worker_group_specs
    assert 1 <= workers.min_replicas == workers.replicas < workers.max_replicas


def test_the_cron_job_creates_the_job_it_carries_and_may() -> None:
    """Account, role and mounted manifest are those that the file makes."""
    documents = {document["kind"]: document for document in yaml.safe_load_all(read("cronjob.yaml"))}
    pod = documents["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    manifests, binding = documents["ConfigMap"], documents["RoleBinding"]
    assert pod["volumes"][0]["configMap"]["name"] == manifests["metadata"]["name"]
    (kubectl,) = pod["containers"]
    assert kubectl["args"] == [
        "create",
        "-f",
        f"{kubectl['volumeMounts'][0]['mountPath']}/{next(iter(manifests['data']))}",
    ]
    assert (
        pod["serviceAccountName"] == documents["ServiceAccount"]["metadata"]["name"] == binding["subjects"][0]["name"]
    )
    assert binding["roleRef"]["name"] == documents["Role"]["metadata"]["name"]
    assert documents["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]


def test_one_version_of_ray() -> None:
    """The image's is the manifests', and one that raymine allows; so is its Python."""
    (version,) = re.findall(r"^ARG RAY=(\S+)$", read("Dockerfile"), re.MULTILINE)
    (python,) = re.findall(r"^FROM rayproject/ray:\$\{RAY\}-py(\d)(\d+)$", read("Dockerfile"), re.MULTILINE)
    assert {job_of(name).ray_cluster_spec.ray_version for name in JOBS} == {version}
    project = (ROOT / "pyproject.toml").read_text()
    (ray,) = re.findall(r'^    "(ray\[.*)",$', project, re.MULTILINE)
    (pythons,) = re.findall(r'^requires-python = "(.*)"$', project, re.MULTILINE)
    assert Requirement(ray).specifier.contains(version)
    assert Requirement(f"python{pythons}").specifier.contains(".".join(python))


def test_the_image_is_made_of_files_that_are_there() -> None:
    """What it copies exists, and the extras it installs are raymine's."""
    sources = [
        part for line in re.findall(r"^COPY \S+ (.*) \S+$", read("Dockerfile"), re.MULTILINE) for part in line.split()
    ]
    assert sources == ["pyproject.toml", "README.md", "LICENSE", "raymine", "jobs"]
    assert all((ROOT / source).exists() for source in sources)
    assert re.findall(r"/tmp/raymine\[(\w+)\]", read("Dockerfile")) == ["s3"]


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_a_file_opens_with_the_command_that_applies_it(path: Path) -> None:
    """A line of the README says it too; files that a command names exist; what comes after a script is parsed."""
    top = header(path.name)
    commands = [line.strip() for line in top.replace("\\\n", "").splitlines() if line.startswith("   ")]
    assert any(f"cluster/{path.name}" in command for command in commands)
    readme = (ROOT / "README.md").read_text()
    assert any(re.search(rf"^{re.escape(command)}( +#.*)?$", readme, re.MULTILINE) for command in commands)
    for command in commands:
        assert all((ROOT / name).is_file() for name in re.findall(r"\b(?:cluster|jobs)/\S+", command))
        for script, arguments in re.findall(r"jobs/(\w+)\.py(?: --)?(.*)", command):
            check_arguments(script, shlex.split(arguments))
