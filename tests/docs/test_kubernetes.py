"""The manifests hold: their fields are those of Kubernetes, their commands those of Fusion, and they fit together."""

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fusion import Fusion, Pipeline
from fusion.cli.exits import EPILOG
from fusion.core.config import Settings
from tests.docs.pages import ROOT
from tests.docs.test_pages import command_of, options

FOLDER = ROOT / "docs" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
OLDEST = "1.31"
Manifest = dict[str, Any]


@cache
def schemas() -> Any:
    """The schemas of Kubernetes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kubernetes_validate
    return kubernetes_validate


@cache
def texts() -> dict[str, str]:
    return {path.name: path.read_text() for path in FILES}


def manifests(name: str) -> list[Manifest]:
    return list(YAML(typ="safe", pure=True).load_all(StringIO(texts()[name])))


def everything() -> list[Manifest]:
    return [one for name in texts() for one in manifests(name)]


def one(kind: str) -> Manifest:
    (found,) = (manifest for manifest in everything() if manifest["kind"] == kind)
    return found


def pods(manifest: Manifest) -> Iterator[Manifest]:
    """The templates of pods in a manifest."""
    spec = manifest.get("spec", {})
    for holder in (spec, spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", [])):
        if "template" in holder:
            yield holder["template"]


def validate(manifest: Manifest) -> None:
    """Fail on a field that Kubernetes does not have; of a custom resource, the templates of its pods are held."""
    if "k8s.io" in manifest["apiVersion"] or "." not in manifest["apiVersion"]:
        kubernetes = schemas()
        for version in (OLDEST, kubernetes.latest_version()):
            kubernetes.validate(manifest, version, strict=True)
        return
    for template in pods(manifest):
        validate({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template})


def containers() -> Iterator[tuple[Manifest, Manifest, Manifest]]:
    for manifest in everything():
        for template in pods(manifest):
            for container in template["spec"]["containers"]:
                yield manifest, template, container


@pytest.mark.parametrize("name", sorted(texts()))
def test_every_field_is_one_of_kubernetes(name: str) -> None:
    assert manifests(name)
    for manifest in manifests(name):
        validate(manifest)


def _misspelt(manifest: Manifest) -> None:
    manifest["spec"]["template"]["spec"]["terminationGracePeriod"] = 60


def _of_another_type(manifest: Manifest) -> None:
    manifest["spec"]["replicas"] = "four"


def _without_selector(manifest: Manifest) -> None:
    del manifest["spec"]["selector"]


def _at_another_place(manifest: Manifest) -> None:
    manifest["spec"]["resources"] = manifest["spec"]["template"]["spec"]["containers"][0].pop("resources")


def _of_another_group(manifest: Manifest) -> None:
    manifest["apiVersion"] = "v1"


def _nameless_container(manifest: Manifest) -> None:
    del manifest["spec"]["template"]["spec"]["containers"][0]["name"]


SPOILED = [_misspelt, _of_another_type, _without_selector, _at_another_place, _of_another_group, _nameless_container]


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_manifest_with_a_mistake_is_refused(spoil: Callable[[Manifest], None]) -> None:
    manifest = copy.deepcopy(one("Deployment"))
    spoil(manifest)
    with pytest.raises((schemas().ValidationError, schemas().SchemaNotFoundError)):
        validate(manifest)


def test_a_mistake_in_a_pod_of_ray_is_refused() -> None:
    manifest = copy.deepcopy(one("RayCluster"))
    manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["enviroment"] = []
    with pytest.raises(schemas().ValidationError):
        validate(manifest)


def test_commands_and_options_are_those_of_fusion() -> None:
    commands = [container["args"] for _, _, container in containers() if "args" in container]
    assert {words[0] for words in commands} == {"worker", "map"}
    for words in commands:
        command, rest = command_of(words)
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options(command)


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_files_that_a_command_reads_are_mounted(kind: str) -> None:
    (template,) = pods(one(kind))
    (container,) = template["spec"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    named = [word.rpartition("=")[2] for word in container["args"] if word.rpartition("=")[2].startswith("/")]
    assert named
    for path in map(Path, named):
        assert str(path.parent) in mounts
        if path.parent == Path("/etc/fusion"):
            assert path.name in one("ConfigMap")["data"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert "data" not in volumes or (
        volumes["data"]["persistentVolumeClaim"]["claimName"] == one("PersistentVolumeClaim")["metadata"]["name"]
    )


def test_a_worker_has_longer_to_end_than_its_rows() -> None:
    (template,) = pods(one("Deployment"))
    words = template["spec"]["containers"][0]["args"]
    grace = float(words[words.index("--grace") + 1])
    assert template["spec"]["terminationGracePeriodSeconds"] >= grace + 10


def test_selectors_find_the_pods_that_they_are_for() -> None:
    labels = next(pods(one("Deployment")))["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert one(kind)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    policy = one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
    for kind in ("Deployment", "Job"):
        assert policy <= next(pods(one(kind)))["metadata"]["labels"].items()


def test_settings_and_pipelines_of_the_pods_are_valid(tmp_path: Path) -> None:
    data = one("ConfigMap")["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    Settings.from_environment(config=tmp_path / "fusion.toml")
    for path in tmp_path.glob("*.yaml"):
        Fusion(profile="local").load(Pipeline.load(path))


def test_a_job_is_not_started_again_where_that_does_not_help() -> None:
    rules = one("Job")["spec"]["podFailurePolicy"]["rules"]
    (codes,) = (rule["onExitCodes"] for rule in rules if rule["action"] == "FailJob")
    assert codes["containerName"] == next(pods(one("Job")))["spec"]["containers"][0]["name"]
    assert all(f"  {code} " in EPILOG for code in codes["values"])
    assert set(codes["values"]) == {2, 4, 6}


def test_no_manifest_holds_a_secret_and_every_pod_of_rows_has_one() -> None:
    assert "Secret" not in {manifest["kind"] for manifest in everything()}
    for _, _, container in containers():
        if container["name"] in ("worker", "driver", "node"):
            assert {"secretRef": {"name": "fusion"}} in container["envFrom"]
