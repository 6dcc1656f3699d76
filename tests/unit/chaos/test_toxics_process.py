"""`python -m chaos.toxics`: what it refuses, and that it runs until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.toxics.__main__ import main
from chaos.toxics.server import running
from kv.leash import environment
from storage.errors import InvalidRequestError
from storage.system_clock import SystemClock

PROXY = {"name": "a", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--listen", "0.0.0.0:0"], "--insecure"),
        (["--listen", "nonsense"], "host:port"),
        (["--config", "no-such-file"], "cannot be read"),
    ],
)
def test_it_says_why_it_does_not_start(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "no list of proxies"),
        ("[1]", "no list of proxies"),
        ("nonsense", "cannot be read"),
        ('[{"name": "a"}]', "upstream"),
        (json.dumps([PROXY, PROXY]), "two proxies are called 'a'"),
        (json.dumps([{**PROXY, "listen": "127.0.0.1:x"}]), "host:port"),
    ],
)
def test_it_says_what_is_wrong_with_its_file(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "toxics.json"
    file.write_text(text)
    assert main(["--listen", "127.0.0.1:0", "--config", str(file)]) == 2
    assert why in capsys.readouterr().err


async def test_two_of_them_cannot_have_one_address() -> None:
    async def start(address: tuple[str, int]) -> tuple[str, int]:
        parts = {"clock": SystemClock(), "rng": random.Random(1)}
        async with running(address, [PROXY], **parts) as (server, bound):
            assert set(server.proxies) == {"a"}
            if address[1] == 0:
                with pytest.raises(InvalidRequestError, match="cannot listen on"):
                    await start(bound)
            return bound

    bound = await start(("127.0.0.1", 0))
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection(*bound)


def test_a_signal_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "toxics.json"
    file.write_text(json.dumps([PROXY]))
    process = subprocess.Popen(
        [sys.executable, "-m", "chaos.toxics", "--listen", "127.0.0.1:0", "--config", file],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "API on http://127.0.0.1:" in line
        assert "1 proxies, seed " in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
