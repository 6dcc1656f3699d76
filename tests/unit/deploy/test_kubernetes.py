"""The Kubernetes manifests: fields that exist, names that resolve, settings that a node takes.

`SCHEMA` knows the fields that these files use, so that a misspelt one is found; it is not the whole
API. What Kubernetes itself would say of them is not known here.
"""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kv.config.reading import SETTINGS, environment_name, parse_config
from kv.config.sections import Config
from kv.config.values import Address
from kv.handing_over import WITHIN_S

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"

LABELS = {"*": str}
SELECTOR = {"matchLabels!": LABELS}
META = {"name!": str, "namespace": str, "labels!": LABELS}
EXEC = {"exec!": {"command!": [str]}}
PROBE = {**EXEC, "periodSeconds!": int, "timeoutSeconds!": int, "failureThreshold!": int}
RESOURCES = {"requests!": LABELS, "limits": LABELS}
SPREAD = {
    "maxSkew!": int, "minDomains": int, "topologyKey!": str, "whenUnsatisfiable!": str,
    "labelSelector!": SELECTOR,
}  # fmt: skip
CONTAINER = {
    "name!": str,
    "image!": str,
    "imagePullPolicy": str,
    "args!": [str],
    "env!": [
        {"name!": str, "value": str, "valueFrom": {"fieldRef!": {"fieldPath!": str}}},
    ],
    "ports!": [{"name!": str, "containerPort!": int}],
    "startupProbe!": PROBE,
    "readinessProbe!": PROBE,
    "livenessProbe!": PROBE,
    "lifecycle!": {"preStop!": EXEC},
    "resources!": RESOURCES,
    "securityContext!": {
        "allowPrivilegeEscalation!": bool,
        "readOnlyRootFilesystem!": bool,
        "capabilities!": {"drop!": [str]},
    },
    "volumeMounts!": [{"name!": str, "mountPath!": str, "subPath": str, "readOnly": bool}],
}
POD = {
    "automountServiceAccountToken!": bool,
    "enableServiceLinks!": bool,
    "terminationGracePeriodSeconds!": int,
    "securityContext!": {
        "runAsNonRoot!": bool,
        "runAsUser!": int,
        "runAsGroup!": int,
        "fsGroup!": int,
        "fsGroupChangePolicy": str,
        "seccompProfile!": {"type!": str},
    },
    "topologySpreadConstraints!": [SPREAD],
    "containers!": [CONTAINER],
    "volumes!": [
        {
            "name!": str,
            "configMap": {"name!": str},
            "secret": {"secretName!": str, "defaultMode!": int},
            "emptyDir": {},
        }
    ],
}
CLAIM = {
    "metadata!": META,
    "spec!": {"accessModes!": [str], "resources!": RESOURCES},
}
SCHEMA: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "Namespace"): {},
    ("v1", "ConfigMap"): {"data!": LABELS},
    ("v1", "Service"): {
        "spec!": {
            "type!": str,
            "clusterIP": str,
            "publishNotReadyAddresses": bool,
            "selector!": LABELS,
            "ports!": [{"name!": str, "port!": int, "targetPort!": str}],
        }
    },
    ("policy/v1", "PodDisruptionBudget"): {
        "spec!": {"maxUnavailable!": int, "selector!": SELECTOR}
    },
    ("apps/v1", "StatefulSet"): {
        "spec!": {
            "serviceName!": str,
            "podManagementPolicy!": str,
            "replicas!": int,
            "updateStrategy!": {"type!": str},
            "minReadySeconds": int,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted!": str, "whenScaled!": str},
            "selector!": SELECTOR,
            "template!": {"metadata!": {"labels!": LABELS}, "spec!": POD},
            "volumeClaimTemplates!": [CLAIM],
        }
    },
}


class WrongManifestError(Exception):
    """Kubernetes would refuse it, or pass over a field."""


def check(value: Any, shape: Any, path: str) -> None:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise WrongManifestError(f"{path} is no mapping")
        fields = {name.removesuffix("!"): inner for name, inner in shape.items()}
        if missing := {n[:-1] for n in shape if n.endswith("!")} - set(value):
            raise WrongManifestError(f"{path} lacks {sorted(missing)}")
        for name, inner in value.items():
            if name not in fields and "*" not in fields:
                raise WrongManifestError(f"{path}.{name} is no field")
            check(inner, fields.get(name, fields.get("*")), f"{path}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or not value:
            raise WrongManifestError(f"{path} is no list with something in it")
        for place, inner in enumerate(value):
            check(inner, shape[0], f"{path}[{place}]")
    elif type(value) is not shape:
        raise WrongManifestError(f"{path} is {value!r} and no {shape.__name__}")


def check_object(found: Mapping[str, Any]) -> None:
    kind = (found.get("apiVersion", ""), found.get("kind", ""))
    if kind not in SCHEMA:
        raise WrongManifestError(f"{kind} is nothing that is known")
    shape = {"apiVersion!": str, "kind!": str, "metadata!": META, **SCHEMA[kind]}
    check(dict(found), shape, kind[1])


def kustomization() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return found


def objects() -> list[dict[str, Any]]:
    return [
        found
        for name in kustomization()["resources"]
        for found in yaml.safe_load_all((KUBERNETES / name).read_text())
    ]


def one(kind: str, name: str = "januskv") -> dict[str, Any]:
    (found,) = [
        each for each in objects() if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    return found


STATEFUL = one("StatefulSet")["spec"]
PODS = STATEFUL["template"]["spec"]
NODE = PODS["containers"][0]


# --- the checker ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("spec.serviceName", None),
        ("spec.replicas", "3"),
        ("spec.template.spec.containers", []),
        ("spec.template.spec.enableServiceLink", False),
        ("apiVersion", "apps/v1beta1"),
        ("metadata.labels.tier", 1),
    ],
)
def test_a_wrong_manifest_is_found(path: str, new: object) -> None:
    wrong = copy.deepcopy(one("StatefulSet"))
    place = wrong
    *way, last = path.split(".")
    for step in way:
        place = place[step]
    if new is None:
        del place[last]
    else:
        place[last] = new
    with pytest.raises(WrongManifestError):
        check_object(wrong)


# --- the objects ---------------------------------------------------------------------------------


def test_every_object_is_well_made_and_in_the_namespace() -> None:
    files = {file.name for file in KUBERNETES.glob("*.yaml")}
    assert files == {"kustomization.yaml", *kustomization()["resources"]}
    found = objects()
    for each in found:
        check_object(each)
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == one("Namespace")["metadata"]["name"]
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(names) == len(set(names)) == 6


def test_selectors_choose_the_pods() -> None:
    labels = STATEFUL["template"]["metadata"]["labels"]
    selectors = [
        STATEFUL["selector"]["matchLabels"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("Service", "januskv-peers")["spec"]["selector"],
        *[each["labelSelector"]["matchLabels"] for each in PODS["topologySpreadConstraints"]],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert "app.kubernetes.io/component" in selector


def test_ports_of_services_are_ports_of_the_container() -> None:
    ports = {each["name"]: each["containerPort"] for each in NODE["ports"]}
    config = Config()
    assert ports == {"clients": config.node.listen.port, "peers": config.node.peer_listen.port}
    for name in ("januskv", "januskv-peers"):
        for port in one("Service", name)["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_founders_find_each_other_before_they_are_ready() -> None:
    peers = one("Service", STATEFUL["serviceName"])["spec"]
    assert peers["clusterIP"] == "None"
    assert peers["publishNotReadyAddresses"] is True
    assert STATEFUL["podManagementPolicy"] == "Parallel"


def test_volumes_are_mounted_and_mounts_have_volumes() -> None:
    claims = {each["metadata"]["name"] for each in STATEFUL["volumeClaimTemplates"]}
    volumes = {each["name"]: each for each in PODS["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in NODE["volumeMounts"]}
    assert set(mounts) == claims | set(volumes)
    assert volumes["config"]["configMap"]["name"] == one("ConfigMap")["metadata"]["name"]
    (mounted,) = [each for each in NODE["volumeMounts"] if each["name"] == "config"]
    assert mounted["subPath"] in one("ConfigMap")["data"]
    for config in configs():
        assert config.node.data == f"{mounts['data']}/data", "not where lost+found is"
        assert str(Path(config.cluster.secret_file).parent) == mounts["secret"]
        tls = config.tls
        for file in (tls.client_cert, tls.client_key, tls.client_ca, tls.peer_ca):
            assert str(Path(file).parent) == mounts["tls"]


def test_a_node_is_stopped_in_good_order() -> None:
    wait, seconds = NODE["lifecycle"]["preStop"]["exec"]["command"]
    assert wait == "sleep"
    drain_s = max(config.limits.drain_timeout_s for config in configs())
    needed_s = int(seconds) + WITHIN_S + 3 * drain_s + 5
    assert PODS["terminationGracePeriodSeconds"] >= needed_s
    assert one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert STATEFUL["replicas"] == 3


def test_probes_ask_the_right_question_and_wait_for_the_answer() -> None:
    asked = {
        name: NODE[f"{name}Probe"]["exec"]["command"]
        for name in ("startup", "readiness", "liveness")
    }
    assert asked == {
        "startup": ["januskv-probe", "livez"],
        "readiness": ["januskv-probe", "readyz"],
        "liveness": ["januskv-probe", "livez", "--any-answer"],
    }
    for name in asked:
        assert NODE[f"{name}Probe"]["timeoutSeconds"] > 4, "the probe's own time"
    liveness = NODE["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60


def test_pods_run_as_the_image_does_and_with_as_little_as_they_can() -> None:
    context = PODS["securityContext"]
    image = (ROOT / "deploy" / "container" / "Dockerfile").read_text()
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in image
    assert context["runAsNonRoot"] is True
    assert context["fsGroup"] == context["runAsGroup"]
    assert NODE["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert PODS["automountServiceAccountToken"] is PODS["enableServiceLinks"] is False
    hosts = PODS["topologySpreadConstraints"][0]
    assert (hosts["topologyKey"], hosts["minDomains"]) == ("kubernetes.io/hostname", 3)


# --- the configuration ---------------------------------------------------------------------------


def environment(number: int) -> dict[str, str]:
    """As the kubelet makes it: $(NAME) is a variable that stands before."""
    made: dict[str, str] = {}
    for variable in NODE["env"]:
        if "valueFrom" in variable:
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
        value = variable.get("value", f"januskv-{number}")
        made[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: made[found[1]], value)
    return made


def configs() -> Iterator[Config]:
    file = KUBERNETES / "configmap.yaml"
    text = yaml.safe_load(file.read_text())["data"]["januskv.toml"]
    for number in range(STATEFUL["replicas"]):
        yield parse_config(text, environment(number), source="configmap.yaml")


def test_every_node_has_a_configuration_that_holds() -> None:
    found = list(configs())
    names = {environment_name(path) for path in SETTINGS}
    namespace = one("Namespace")["metadata"]["name"]
    peers = STATEFUL["serviceName"]
    for number, config in enumerate(found):
        assert set(environment(number)) - names == {"POD_NAME"}
        host = f"januskv-{number}.{peers}.{namespace}.svc"
        assert not config.insecure
        assert config.node.name == f"januskv-{number}"
        assert config.node.advertise == Address(host, 7400)
        assert config.node.peer_advertise == Address(host, 7401)
        assert config.cluster.initial[number].peer == config.node.peer_advertise
        assert len(config.cluster.initial) == STATEFUL["replicas"]
        service = one("Service")["metadata"]["name"]
        assert {host, service, f"{service}.{namespace}.svc"} <= set(config.http.hosts)


# --- the certificates ----------------------------------------------------------------------------


def test_the_script_makes_what_the_nodes_need(tmp_path: Path) -> None:
    script = KUBERNETES / "make-certificates.sh"

    def call() -> str:
        return subprocess.run(
            ["sh", script, tmp_path / "made"],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    told = call()
    made = tmp_path / "made"
    names = {file.name for file in made.iterdir()}
    assert {"ca.crt", "node.crt", "node.key", "client.crt", "cluster-secret"} <= names
    assert all(file.stat().st_mode & 0o077 == 0 for file in made.iterdir())
    shown = subprocess.run(
        ["openssl", "x509", "-in", made / "node.crt", "-noout", "-text"],
        check=True, capture_output=True, text=True, timeout=30,
    ).stdout  # fmt: skip
    for config in configs():
        for host in (config.node.peer_advertise.host, *config.http.hosts):
            assert f"DNS:{host}" in shown
    assert "IP Address:127.0.0.1" in shown
    # The secrets of the manifests are those that it tells to make.
    secrets = {each["secret"]["secretName"] for each in PODS["volumes"] if "secret" in each}
    assert {name for name in secrets if f"create secret generic {name}" in told} == secrets
    for config in configs():
        assert f"--from-file={Path(config.tls.client_cert).name}=node.crt" in told
        assert f"--from-file={Path(config.tls.client_key).name}=node.key" in told
        assert f"--from-file={Path(config.cluster.secret_file).name}" in told
    before = (made / "node.crt").read_bytes()
    call()
    assert (made / "node.crt").read_bytes() == before, "a second call keeps what is there"
