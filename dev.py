#!/usr/bin/env python3
"""The one door for people who work on JanusKV: `python3 dev.py up`, `python3 dev.py test`, ...

It needs nothing but Python 3.11 and its standard library. The first call makes `.venv` beside this
file and installs the project with what the command needs; later calls start at once, until
pyproject.toml or the tested versions (deploy/constraints.txt) change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
CONSTRAINTS = ROOT / "deploy" / "constraints.txt"
OLDEST = (3, 11)

# What each command installs besides the project itself (groups of pyproject.toml).
GROUPS: dict[str, tuple[str, ...]] = {
    "up": (),
    "bench": (),
    "sim": (),
    "test": ("test", "chaos", "check"),
    "check": ("check", "test", "chaos"),
}


class DevError(Exception):
    """Something the person can repair; printed as one line."""


def main(arguments: list[str]) -> int:
    if sys.version_info < OLDEST:
        raise DevError(
            f"JanusKV needs Python {OLDEST[0]}.{OLDEST[1]} or newer and this is "
            f"{sys.version.split()[0]}; run dev.py with a newer one, for example python3.12 dev.py"
        )
    parser = argparse.ArgumentParser(
        prog="dev.py", description="Set up, start, test and check JanusKV from a clone."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("up", "start a local cluster of three nodes (arguments go to `januskv cluster`)"),
        ("test", "run the tests (arguments go to pytest; --coverage measures storage/)"),
        ("check", "lint, types and import contracts"),
        ("bench", "run `januskv bench ARGUMENTS`"),
        ("sim", "run `januskv sim ARGUMENTS`"),
    ):
        commands.add_parser(name, help=text, add_help=False)
    command = parser.parse_args(arguments[:1]).command
    environment(GROUPS[command])
    run_command = {"up": up, "test": test, "check": check, "bench": bench, "sim": sim}[command]
    return run_command(arguments[1:])


# --- commands --------------------------------------------------------------------------------


def up(rest: list[str]) -> int:
    return run(BIN / "januskv", "cluster", *(rest or ["--data", "januskv-cluster"]))


def test(rest: list[str]) -> int:
    if "--coverage" in rest:
        rest = [word for word in rest if word != "--coverage"]
        for old in ROOT.glob(".coverage*"):
            old.unlink()
        code = run(PYTHON, "-m", "coverage", "run", "-m", "pytest", "-p", "no:xdist", *rest)
        run(PYTHON, "-m", "coverage", "combine", "-q")
        below = run(PYTHON, "-m", "coverage", "report", "--fail-under=90", "--skip-covered")
        return code or below
    parallel = (
        []
        if any(word in ("-n", "--pdb", "-s") for word in rest)
        else ["-n", "2", "--dist", "worksteal"]
    )
    return run(PYTHON, "-m", "pytest", *parallel, *rest)


def check(rest: list[str]) -> int:
    steps = {
        "ruff check": (BIN / "ruff", "check", "."),
        "ruff format": (BIN / "ruff", "format", "--check", "."),
        "mypy": (BIN / "mypy",),
        "contracts": (BIN / "lint-imports",),
    }
    failed = []
    for name, command in steps.items():
        started = time.perf_counter()
        result = subprocess.run(
            [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        verdict = "ok" if result.returncode == 0 else "FAILED"
        print(f"{name:<12} {verdict:<7} {time.perf_counter() - started:5.1f} s", flush=True)
        if result.returncode:
            failed.append((name, result.stdout + result.stderr))
    for name, output in failed:
        print(f"\n--- {name} ---\n{output.strip()}")
    return 1 if failed else 0


def bench(rest: list[str]) -> int:
    return run(BIN / "januskv", "bench", *rest)


def sim(rest: list[str]) -> int:
    return run(BIN / "januskv", "sim", *rest)


# --- the environment -------------------------------------------------------------------------


def environment(groups: tuple[str, ...]) -> None:
    """Make .venv hold the project and the groups. Does nothing if it already does."""
    wanted = fingerprint()
    missing = [group for group in ("", *groups) if stamp(group, wanted) is None]
    if PYTHON.exists() and not missing:
        return
    if not usable_python():
        make_venv()
        missing = ["", *groups]
    requirements = [line for group in missing if group for line in group_requirements(group)]
    say(f"installing januskv{' and ' + ', '.join(m for m in missing if m) if any(missing) else ''}")
    pip_install(["--editable", str(ROOT), *requirements])
    for group in missing:
        stamp_path(group).write_text(wanted)


def fingerprint() -> str:
    """Of all that decides what is installed; settings of lint and tests do not."""
    table = pyproject()
    parts = [table[name] for name in ("build-system", "project", "dependency-groups")]
    digest = hashlib.sha256(str(ROOT).encode())
    digest.update(json.dumps(parts, sort_keys=True).encode())
    digest.update(CONSTRAINTS.read_bytes() if CONSTRAINTS.exists() else b"")
    return digest.hexdigest()


def pyproject() -> dict[str, Any]:
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def stamp_path(group: str) -> Path:
    return VENV / f".januskv-{group or 'runtime'}"


def stamp(group: str, wanted: str) -> str | None:
    path = stamp_path(group)
    return wanted if path.exists() and path.read_text() == wanted else None


def group_requirements(group: str) -> list[str]:
    found: list[str] = pyproject()["dependency-groups"][group]
    return found


def usable_python() -> bool:
    """A .venv whose interpreter was removed or upgraded away is made again."""
    if not PYTHON.exists():
        return False
    probe = subprocess.run(
        [str(PYTHON), "-c", "import sys; print(sys.version_info[:2] >= (3, 11))"],
        capture_output=True,
        text=True,
        check=False,
    )
    return probe.stdout.strip() == "True"


def make_venv() -> None:
    """The first way that works: venv with pip, uv, virtualenv, venv filled by an outer pip."""
    if VENV.exists():
        shutil.rmtree(VENV)
    say(f"making {VENV.name} with Python {sys.version.split()[0]}")
    if has("ensurepip") and attempt(sys.executable, "-m", "venv", str(VENV)):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    uv = shutil.which("uv")
    if uv and attempt(uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(VENV)):
        return
    if has("virtualenv") and attempt(sys.executable, "-m", "virtualenv", "--quiet", str(VENV)):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    if (
        has("pip")
        and attempt(sys.executable, "-m", "venv", "--without-pip", str(VENV))
        and attempt(sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "-q", "pip")
    ):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    version = sysconfig.get_python_version()
    raise DevError(
        "this Python cannot make a virtual environment: it has no ensurepip, and neither uv, "
        f"virtualenv nor pip was found. On Debian or Ubuntu: apt-get install python{version}-venv"
    )


def has(module: str) -> bool:
    return attempt(sys.executable, "-c", f"import {module}")


def attempt(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def pip_install(arguments: list[str]) -> None:
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if CONSTRAINTS.exists():
        command += ["--constraint", str(CONSTRAINTS)]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr or result.stdout).strip().splitlines()
        raise DevError("pip could not install the project:\n  " + "\n  ".join(reason[-15:]))


# --- helpers ---------------------------------------------------------------------------------


def run(*command: str | Path) -> int:
    """Run in the foreground; an interrupt goes to the child, whose exit code counts."""
    child = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=os.environ)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except DevError as error:
        say(str(error))
        raise SystemExit(2) from None
