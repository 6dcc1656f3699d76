"""Endpoints with TLS: trusted by a certificate that is named, and by nothing else."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kv.cli.main import main
from kv.client import Client, UnavailableError


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, with its key, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed, so no certificate can be made")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path / "cert.pem"


@pytest.fixture
async def secure(faulty: Any, certificate: Path) -> str:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    await faulty.stop()
    await faulty.start(tls=context)
    return f"https://127.0.0.1:{faulty.port}"


async def test_a_trusted_endpoint_serves(secure: str, certificate: Path) -> None:
    async with Client(secure, tls=ssl.create_default_context(cafile=str(certificate))) as client:
        await client.put("k", "v")
        async with client.watch("k", from_revision=2) as watch:
            assert (await asyncio.wait_for(watch.next(), 5)).events[0].value == b"v"


async def test_an_untrusted_one_is_sent_nothing(secure: str, faulty: Any) -> None:
    async with Client(secure, refused_s=0.0) as client:
        with pytest.raises(UnavailableError, match="certificate is not trusted"):
            await client.put("k", "v")
    assert faulty.requests == []


async def test_the_command_line_takes_an_authority(
    secure: str, certificate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["incr", "n", "--endpoints", secure, "--timeout", "1"]
    assert await asyncio.to_thread(main, [*words, "--cacert", str(certificate)]) == 0
    assert capsys.readouterr().out == "1\n"
    assert await asyncio.to_thread(main, words) == 2
    assert "certificate is not trusted" in capsys.readouterr().err
    for wrong in (["--cacert", "/no/such"], ["--cert", str(certificate)], ["--key-file", "x"]):
        assert await asyncio.to_thread(main, [*words, *wrong]) == 2
        assert "PEM" in (told := capsys.readouterr().err) or "--cert" in told
