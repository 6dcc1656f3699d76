"""Every curl line of kv/api/REST.md and LEADERLESS.md works against a node, as printed."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = {"strong": ("REST.md", 40), "leaderless": ("LEADERLESS.md", 25)}
"""By mode, and how many lines there are at least."""
TIMED_OUT = 28
"""What curl answers when --max-time is over: how the streams of the document end."""
EXPECTED = {
    'If-Match: "1"': "version_mismatch",
    "leader/transfer": "unavailable",
    "400 wrong_regime": "wrong_regime",
}
"""Lines that show a refusal, and its code."""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("curl") is None, reason="the lines are curl's"),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module", params=sorted(DOCUMENTS))
def mode(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def url(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("rest") / "data"
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "kv.cli.main",
            "serve",
            "--mode",
            mode,
            "--data",
            str(data),
            "--listen",
            url.removeprefix("http://"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(url + "/readyz", process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        assert process.poll() is None, "the node ended"
        try:
            with urlopen(url, timeout=1):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise AssertionError("the node does not serve")


def commands(name: str) -> list[str]:
    text = (ROOT / "kv" / "api" / name).read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        found += [
            line for line in re.split(r"\n(?=curl |[A-Z]+=)", block.strip()) if "curl" in line
        ]
    return found


def test_every_line(mode: str, url: str) -> None:
    name, least = DOCUMENTS[mode]
    lines = commands(name)
    assert len(lines) > least
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", f"J={url}\n{line}"],
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=30,
        )
        ends_itself = "--max-time" in line
        assert done.returncode in ((0, TIMED_OUT) if ends_itself else (0,)), (line, done.stderr)
        answer = done.stdout.decode(errors="replace")
        expected = next((code for part, code in EXPECTED.items() if part in line), None)
        if expected:
            assert f'"error":"{expected}"' in answer, (line, answer)
        else:
            assert '"error":"' not in answer, (line, answer)
            assert "HTTP/1.1 4" not in answer, (line, answer)
