"""The compose files: every name in them leads somewhere, and every setting is one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chaos.toxics.__main__ import parser as toxics_parser
from chaos.toxics.__main__ import read_proxies
from kv.config.reading import SETTINGS, ConfigError, environment_name, load_config
from kv.config.sections import Config
from kv.config.values import Address
from kv.handing_over import WITHIN_S

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy" / "compose"
IMAGE_CONFIG = ROOT / "deploy" / "container" / "januskv.toml"
NODES = ("n1", "n2", "n3")
FIELDS = {
    "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck",
    "image", "networks", "ports", "read_only", "restart", "security_opt", "stop_grace_period",
    "tmpfs", "ulimits", "volumes",
}  # fmt: skip

BASE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
CHAOS: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.chaos.yaml").read_text())
PROXIES: list[dict[str, Any]] = json.loads((COMPOSE / "toxics.json").read_text())


def services(*, chaos: bool) -> dict[str, dict[str, Any]]:
    """Merged as compose does it: mappings by key, the rest replaced."""
    found = {name: dict(service) for name, service in BASE["services"].items()}
    for name, service in CHAOS["services"].items() if chaos else ():
        old = found.get(name, {})
        merged = {**old, **service}
        if old:
            merged["environment"] = {**old["environment"], **service["environment"]}
        found[name] = merged
    return found


def configs(*, chaos: bool) -> Iterator[tuple[str, Config]]:
    for name in NODES:
        yield name, load_config(IMAGE_CONFIG, services(chaos=chaos)[name]["environment"])


@pytest.mark.parametrize("chaos", [False, True])
def test_a_service_is_made_of_known_fields_and_its_names_resolve(chaos: bool) -> None:
    assert set(BASE) == {"name", "x-node", "x-settings", "services", "networks", "volumes"}
    assert set(CHAOS) == {"services"}
    found = services(chaos=chaos)
    for name, service in found.items():
        assert set(service) <= FIELDS, name
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"]), "a version, not latest"
        assert set(service["networks"]) <= set(BASE["networks"])
        assert set(service.get("depends_on", ())) <= set(found)
        for volume in service.get("volumes", ()):
            source, target, *mode = volume.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (COMPOSE / source).exists(), source
                assert mode == ["ro"]
            else:
                assert source in BASE["volumes"]
        for value in service.get("environment", {}).values():
            assert isinstance(value, str), f"{value!r} is no text: quote it"


def test_ports_are_published_on_loopback_and_once() -> None:
    published = [port for service in services(chaos=True).values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published) == 6


@pytest.mark.parametrize("chaos", [False, True])
def test_every_node_has_a_configuration_that_holds(chaos: bool) -> None:
    names = {environment_name(path) for path in SETTINGS}
    for name, config in configs(chaos=chaos):
        assert set(services(chaos=chaos)[name]["environment"]) <= names
        assert config.node.name == name
        assert config.node.advertise == Address(name, config.node.listen.port)
        assert config.node.peer_advertise == Address(name, config.node.peer_listen.port)
        assert {member.name for member in config.cluster.initial} == set(NODES)
        assert config.http.hosts == NODES
        service = services(chaos=chaos)[name]
        assert f"{name}-data:{config.node.data}" in service["volumes"]
        assert service["ports"][0].endswith(f":{config.node.listen.port}")
        assert service["ulimits"]["nofile"] > config.limits.connections


def test_a_misspelt_setting_is_found() -> None:
    settings = dict(services(chaos=False)["n1"]["environment"])
    settings["JANUSKV_NODE__ADVERTISED"] = settings.pop("JANUSKV_NODE__ADVERTISE")
    with pytest.raises(ConfigError, match="JANUSKV_NODE__ADVERTISE"):
        load_config(IMAGE_CONFIG, settings)


def test_without_the_word_insecure_it_would_not_start() -> None:
    settings = dict(services(chaos=False)["n1"]["environment"])
    del settings["JANUSKV_INSECURE"]
    with pytest.raises(ConfigError, match="insecure"):
        load_config(IMAGE_CONFIG, settings)
    assert BASE["networks"]["nodes"] == {"internal": True}


def test_a_node_may_take_its_time_to_stop() -> None:
    for name, config in configs(chaos=False):
        grace = services(chaos=False)[name]["stop_grace_period"]
        slowest_s = WITHIN_S + 3 * config.limits.drain_timeout_s
        assert int(grace.removesuffix("s")) >= slowest_s + 5


def test_nodes_run_with_as_little_as_they_can() -> None:
    for name in (*NODES, "toxics"):
        service = services(chaos=True)[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    build = services(chaos=False)["n1"]["build"]
    assert (COMPOSE / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).exists()


# --- what stands around the nodes ----------------------------------------------------------------


def test_prometheus_scrapes_all_nodes_and_has_the_alerts() -> None:
    config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    other = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert job["job_name"] == other["scrape_configs"][0]["job_name"], "the alerts name the job"
    assert job["static_configs"][0]["targets"] == [f"{name}:7400" for name in NODES]
    service = services(chaos=False)["prometheus"]
    mounted = {Path(volume.split(":")[1]).name for volume in service["volumes"]}
    assert set(config["rule_files"]) <= mounted
    assert "--config.file=/etc/prometheus/prometheus.yml" in service["command"]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    found = yaml.safe_load((COMPOSE / "grafana-datasource.yml").read_text())
    (source,) = found["datasources"]
    assert found["apiVersion"] == 1
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in services(chaos=False)["prometheus"]["ports"]
    volumes = [volume.split(":")[:2] for volume in services(chaos=False)["grafana"]["volumes"]]
    provider = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/dashboards/januskv.yml").read_text()
    )["providers"][0]
    assert ["../grafana/dashboards", provider["options"]["path"]] in volumes


# --- chaos ---------------------------------------------------------------------------------------


def test_every_directed_link_has_a_proxy_of_its_own() -> None:
    by_port = {int(proxy["listen"].rpartition(":")[2]): proxy for proxy in PROXIES}
    assert len(by_port) == len({proxy["name"] for proxy in PROXIES}) == 6
    for name, config in configs(chaos=True):
        addresses = config.cluster.peer_addresses
        assert set(addresses) == set(NODES) - {name}
        for peer, address in addresses.items():
            proxy = by_port[address.port]
            assert address.host == "toxics"
            assert proxy["name"] == f"{name}-{peer}"
            assert proxy["upstream"] == f"{peer}:7401"
            assert proxy["enabled"] is True


def test_the_toxics_server_understands_its_command() -> None:
    service = CHAOS["services"]["toxics"]
    assert service["entrypoint"] == ["python", "-m", "chaos.toxics"]
    args = toxics_parser().parse_args(service["command"])
    assert args.insecure
    assert f"./toxics.json:{args.config}:ro" in service["volumes"]
    assert service["ports"] == [f"127.0.0.1:8474:{args.listen.rpartition(':')[2]}"]
    assert read_proxies(COMPOSE / "toxics.json") == PROXIES
