"""Nodes started from the very files of deploy/, with real processes on loopback.

Only addresses and paths are replaced: what the container would see as n2:7401 is a port here.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from chaos.raftcluster import wait_for
from kv.leash import environment
from kv.peers.cluster import free_ports

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
PROBE = DEPLOY / "container" / "probe.py"
IMAGE_CONFIG = DEPLOY / "container" / "januskv.toml"
ADDRESS = re.compile(r"(0\.0\.0\.0|toxics|n(?=\d:)|januskv-(?=\d\.))(?:(\d)([a-z.-]*))?:(\d+)")
DEADLINE_S = 40.0


class Processes:
    """Invariant: `end` leaves none of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, arguments: list[str], env: Mapping[str, str]) -> None:
        inherited = {key: value for key, value in environment().items() if "JANUSKV" not in key}
        with (self.directory / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**inherited, **env},
                start_new_session=True,
            )

    def serve(self, name: str, config: Path, env: Mapping[str, str]) -> None:
        data = {"JANUSKV_NODE__DATA": str(self.directory / name)}
        command = ["-P", "-c", "from kv.cli.main import entry; entry()"]
        self.start(name, [*command, "serve", "--config", str(config)], {**env, **data})

    def wait(self, probe: Callable[[], Any], what: str) -> Any:
        def look() -> Any:
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended: {self.log(name)}"
            return probe()

        return wait_for(look, what, DEADLINE_S, poll_s=0.05)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def stop(self, name: str) -> int:
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def end(self) -> None:
        for name, process in self.running.items():
            process.kill()
            process.wait()
            print(f"--- {name} ---\n{self.log(name)}")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.end()


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    body: object = None,
    host: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, str]:
    """(0, why) if nobody answers."""
    connection: http.client.HTTPConnection
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=tls)
    try:
        headers = {} if host is None else {"Host": host}
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()


def ready(port: int, tls: ssl.SSLContext | None = None) -> bool:
    return ask(port, "/readyz", tls=tls)[0] == 200


def run_probe(arguments: list[str], config: Path, env: Mapping[str, str]) -> tuple[int, str]:
    known = {key: value for key, value in environment().items() if "JANUSKV" not in key}
    result = subprocess.run(
        [sys.executable, "-P", PROBE, *arguments, "--config", config],
        env={**known, **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return result.returncode, result.stderr


# --- a sample of deploy/config -------------------------------------------------------------------


def test_a_single_node_starts_from_its_sample(processes: Processes) -> None:
    config = DEPLOY / "config" / "single.toml"
    port = free_ports([0, 1])
    env = {"JANUSKV_NODE__LISTEN": f"127.0.0.1:{port}"}
    assert run_probe(["readyz"], config, env) == (
        1,
        "januskv-probe: no answer: [Errno 111] Connection refused\n",
    )
    processes.serve("node", config, env)
    processes.wait(lambda: ready(port), "the node is ready")
    for call in (["livez"], ["readyz"], ["livez", "--any-answer"]):
        assert run_probe(call, config, env) == (0, "")
    assert processes.stop("node") == 0


CERTIFICATES = {
    "tls/client.pem": "node.crt",
    "tls/client.key": "node.key",
    "tls/clients-ca.pem": "ca.crt",
    "tls/peer.pem": "node.crt",
    "tls/peer.key": "node.key",
    "tls/peers-ca.pem": "ca.crt",
    "cluster-secret": "cluster-secret",
}
"""What the samples of clusters call the files that make-certificates.sh makes."""


def make_certificates(directory: Path) -> ssl.SSLContext:
    """Returns what a client of the cluster needs."""
    script = DEPLOY / "kubernetes" / "make-certificates.sh"
    subprocess.run(["sh", script, directory], check=True, capture_output=True, timeout=60)
    client = ssl.create_default_context(cafile=directory / "ca.crt")
    client.load_cert_chain(directory / "client.crt", directory / "client.key")
    return client


@pytest.mark.parametrize("name", ["strong", "leaderless", "mixed"])
def test_a_cluster_starts_from_its_sample(name: str, processes: Processes, tmp_path: Path) -> None:
    """Three machines are three pairs of ports; what the sample says to change on the others comes
    from the environment, as it says."""
    certificates = tmp_path / "certificates"
    client = make_certificates(certificates)
    ports = node_ports()
    text = (DEPLOY / "config" / f"{name}.toml").read_text()
    for sample, made in CERTIFICATES.items():
        text = text.replace(f"/etc/januskv/{sample}", str(certificates / made))
    text = re.sub(
        r'"10\.0\.0\.(\d):(\d+)"',
        lambda found: f'"127.0.0.1:{ports[int(found[1]), int(found[2])]}"',
        text,
    )
    assert "10.0.0." not in re.sub("(?m)^#.*$", "", text)
    config = tmp_path / "sample.toml"
    config.write_text(text)
    for number in (1, 2, 3):
        address = f"127.0.0.1:{ports[number, 7400]}"
        own = {"NAME": f"n{number}", "LISTEN": address, "RACK": f"rack-{number}"}
        env = {f"JANUSKV_NODE__{setting}": value for setting, value in own.items()}
        processes.serve(f"n{number}", config, env)
    for number in (1, 2, 3):
        port = ports[number, 7400]
        processes.wait(lambda port=port: ready(port, client), f"n{number} is ready")
    body = {"value": "hello"}
    path = "/api/v1/keys/a"
    assert ask(ports[1, 7400], path, method="PUT", body=body, tls=client)[0] in (200, 201)
    status, told = ask(ports[2, 7400], path, tls=client)
    assert (status, json.loads(told)["value"]) == (200, "hello")
    mode = json.loads(ask(ports[3, 7400], "/api/v1/status", tls=client)[1])["mode"]
    assert mode == ("leaderless" if name == "leaderless" else "strong")
    if name == "mixed":
        made = {"name": "carts", "regime": "leaderless"}
        admin = "/api/v1/admin/keyspaces"
        assert ask(ports[1, 7400], admin, method="POST", body=made, tls=client)[0] == 200
        path = "/api/v1/keys/c?keyspace=carts"
        put = {"method": "PUT", "body": body, "tls": client}
        processes.wait(lambda: ask(ports[1, 7400], path, **put)[0] == 200, "the ring is there")
        status, told = ask(ports[1, 7400], path, tls=client)
        assert (status, json.loads(told)["value"]) == (200, "hello")


# --- compose -------------------------------------------------------------------------------------


def on_loopback(text: str, here: int, ports: Mapping[tuple[int, int], int]) -> str:
    """`ports` by (number of the node, port in the container); `toxics` has the number 0, and
    0.0.0.0 is the node that is asked for."""

    def replace(found: re.Match[str]) -> str:
        name, number, port = found[1], found[2], int(found[4])
        node = here if name == "0.0.0.0" else 0 if name == "toxics" else int(number)
        return f"127.0.0.1:{ports[node, port]}"

    return ADDRESS.sub(replace, text)


def compose_environments(*files: str) -> dict[str, dict[str, str]]:
    """Of the nodes, as `docker compose -f FILE -f FILE` merges them."""
    merged: dict[str, dict[str, str]] = {}
    for file in files:
        services = yaml.safe_load((DEPLOY / "compose" / file).read_text())["services"]
        for name in ("n1", "n2", "n3"):
            merged.setdefault(name, {}).update(services[name]["environment"])
    return merged


def node_ports(count: int = 3, others: int = 0) -> dict[tuple[int, int], int]:
    base = free_ports(list(range(2 * count + others)))
    ports = {}
    for number in range(1, count + 1):
        ports[number, 7400] = base + 2 * (number - 1)
        ports[number, 7401] = base + 2 * (number - 1) + 1
    return ports


def serve_compose(
    processes: Processes, ports: Mapping[tuple[int, int], int], *files: str
) -> dict[str, dict[str, str]]:
    environments = {}
    for number, (name, settings) in enumerate(compose_environments(*files).items(), 1):
        environments[name] = {
            key: on_loopback(value, number, ports) for key, value in settings.items()
        }
        assert not re.search(r"0\.0\.0\.0|n\d:|toxics:", " ".join(environments[name].values()))
        processes.serve(name, IMAGE_CONFIG, environments[name])
    for number in (1, 2, 3):
        processes.wait(lambda port=ports[number, 7400]: ready(port), f"n{number} is ready")
    return environments


def test_the_compose_cluster_serves(processes: Processes) -> None:
    ports = node_ports()
    environments = serve_compose(processes, ports, "compose.yaml")
    one, two, three = (ports[number, 7400] for number in (1, 2, 3))
    assert ask(one, "/api/v1/keys/a", method="PUT", body={"value": "hello"})[0] in (200, 201)
    assert json.loads(ask(two, "/api/v1/keys/a")[1])["value"] == "hello"
    # As Prometheus calls it, and as a page that came by a name of its own.
    assert ask(three, "/metrics", host="n3:7400")[0] == 200
    assert ask(three, "/metrics", host="n4:7400")[0] in (403, 421)
    assert run_probe(["readyz"], IMAGE_CONFIG, environments["n2"]) == (0, "")
    # A node that is stopped and started again finds the cluster; the other two serve meanwhile.
    assert processes.stop("n1") == 0
    processes.wait(lambda: ready(two) and ready(three), "two of three serve")
    processes.serve("n1", IMAGE_CONFIG, environments["n1"])
    processes.wait(lambda: ready(one), "n1 is back")


def test_the_links_of_the_chaos_cluster_can_be_cut(processes: Processes, tmp_path: Path) -> None:
    proxies = json.loads((DEPLOY / "compose" / "toxics.json").read_text())
    base = free_ports(list(range(6 + 1 + len(proxies))))
    ports = {(n, 7400): base + 2 * n - 2 for n in (1, 2, 3)}
    ports |= {(n, 7401): base + 2 * n - 1 for n in (1, 2, 3)}
    ports[0, 8474] = base + 6
    for place, proxy in enumerate(proxies):
        ports[0, int(proxy["listen"].rpartition(":")[2])] = base + 7 + place
    file = tmp_path / "toxics.json"
    file.write_text(on_loopback(json.dumps(proxies), 0, ports))
    service = yaml.safe_load((DEPLOY / "compose" / "compose.chaos.yaml").read_text())["services"]
    command = [*service["toxics"]["entrypoint"][1:], *service["toxics"]["command"]]
    command = [
        on_loopback(word, 0, ports).replace("/etc/toxics.json", str(file)) for word in command
    ]
    processes.start("toxics", command, {})
    api = ports[0, 8474]
    processes.wait(lambda: ask(api, "/version")[0] == 200, "the toxics server answers")

    serve_compose(processes, ports, "compose.yaml", "compose.chaos.yaml")
    third = ports[3, 7400]
    for link in ("n1-n3", "n3-n1", "n2-n3", "n3-n2"):
        assert ask(api, f"/proxies/{link}", method="POST", body={"enabled": False})[0] == 200
    # Nothing reaches n3 beside the proxies: it is alone now, and the others are not.
    processes.wait(lambda: not ready(third), "n3 is cut off")
    processes.wait(lambda: ready(ports[1, 7400]) and ready(ports[2, 7400]), "the others serve")
    assert ask(api, "/reset", method="POST")[0] == 204
    processes.wait(lambda: ready(third), "n3 is back")
    assert processes.stop("toxics") == 0


# --- Kubernetes ----------------------------------------------------------------------------------


def manifests() -> Iterator[dict[str, Any]]:
    for file in (DEPLOY / "kubernetes").glob("*.yaml"):
        yield from yaml.safe_load_all(file.read_text())


def pod_environment(number: int) -> dict[str, str]:
    """As the kubelet makes it of the StatefulSet: names in $(...) are earlier variables."""
    (chosen,) = [found for found in manifests() if found["kind"] == "StatefulSet"]
    (container,) = chosen["spec"]["template"]["spec"]["containers"]
    made: dict[str, str] = {}
    for variable in container["env"]:
        value = variable.get("value", f"januskv-{number}")
        made[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: made[found[1]], value)
    return made


def test_the_kubernetes_cluster_serves_with_its_certificates(
    processes: Processes, tmp_path: Path
) -> None:
    certificates = tmp_path / "certificates"
    client = make_certificates(certificates)
    for made, mounted in (("node.crt", "tls.crt"), ("node.key", "tls.key")):
        os.link(certificates / made, certificates / mounted)
    (config_map,) = [found for found in manifests() if found["kind"] == "ConfigMap"]
    text = config_map["data"]["januskv.toml"]
    text = re.sub("/etc/januskv/(tls|secret)/", f"{certificates}/", text)
    base = free_ports(list(range(6)))
    ports = {(n, 7400): base + 2 * n for n in (0, 1, 2)}
    ports |= {(n, 7401): base + 2 * n + 1 for n in (0, 1, 2)}
    nodes = {}
    for number in (0, 1, 2):
        config = tmp_path / f"{number}.toml"
        config.write_text(on_loopback(text, number, ports))
        env = {
            key: on_loopback(value, number, ports) for key, value in pod_environment(number).items()
        }
        nodes[number] = (config, env)
        processes.serve(f"januskv-{number}", config, env)

    for number in (0, 1, 2):
        port = ports[number, 7400]
        processes.wait(lambda port=port: ready(port, client), f"januskv-{number} is ready")
        config, env = nodes[number]
        assert run_probe(["readyz"], config, env) == (0, "")
        assert run_probe(["livez", "--any-answer"], config, env) == (0, "")
    # Every name of the Service is a name of the node; whoever shows no certificate is refused.
    for host in ("januskv", "januskv.januskv.svc", "januskv-2.januskv-peers.januskv.svc:7400"):
        assert ask(ports[2, 7400], "/readyz", host=host, tls=client)[0] == 200
    called = subprocess.run(
        [
            sys.executable, "-P", "-c", "from kv.cli.main import entry; entry()", "health",
            "--endpoints", f"https://127.0.0.1:{ports[1, 7400]}",
            "--cacert", certificates / "ca.crt", "--cert", certificates / "client.crt",
            "--key-file", certificates / "client.key",
        ],
        env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert called.returncode == 0, called.stderr
    stranger = ssl.create_default_context(cafile=certificates / "ca.crt")
    assert ask(ports[2, 7400], "/readyz", tls=stranger)[0] == 0
    assert ask(ports[2, 7400], "/readyz")[0] == 0
