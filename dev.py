#!/usr/bin/env python3
"""The one door for people who work on JanusKV: `python3 dev.py up`, `python3 dev.py test`, ...

It needs nothing but Python 3.11 and its standard library. The first call makes `.venv` beside this
file and installs the project with what the command needs; later calls start at once, until
pyproject.toml or the tested versions (deploy/constraints.txt) change.

The `.venv` is of the Python that runs this, but for one case: one that was built without
optimisation (pyenv does so unless it is told otherwise) gives way to an optimised one on PATH,
because a put then costs a tenth less. DEV_PYTHON names another one, whatever it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
CONSTRAINTS = ROOT / "deploy" / "constraints.txt"
OLDEST = (3, 11)
NAMES = ("python3.11", "python3.12", "python3.13", "python3")
"""Of interpreters that it runs with; looked for in every folder of PATH."""
PROBE = """
import json, sys, sysconfig
flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
optimised = "--enable-optimizations" in flags or sys.base_prefix == "/usr"
print(json.dumps([sys.executable, sys.version_info[:3], optimised]))
"""
"""Distributions optimise theirs, and not all of them say so in the flags."""

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


class Interpreter(NamedTuple):
    version: tuple[int, ...]
    program: str
    optimised: bool

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.version))} ({self.program})"


def probe(program: str) -> Interpreter | None:
    """What it says of itself; None if it does not start."""
    try:
        done = subprocess.run([program, "-I", "-c", PROBE], capture_output=True, check=False)
        found, version, optimised = json.loads(done.stdout)
    except (OSError, ValueError):
        return None
    return Interpreter(tuple(version), found, optimised)


def pythons() -> list[Interpreter]:
    """Those to make .venv with, the best one first; that which runs this is one of them."""
    asked = os.environ.get("DEV_PYTHON")
    if asked:
        named = probe(asked)
        if named is None or named.version < OLDEST:
            raise DevError(f"DEV_PYTHON={asked} is no Python {OLDEST[0]}.{OLDEST[1]} or newer")
        return [named]
    here = probe(sys.executable) or Interpreter(sys.version_info[:3], sys.executable, True)
    if here.optimised:
        return [here]
    folders = os.get_exec_path()
    paths = {shutil.which(name, path=folder) for folder in folders for name in NAMES}
    found = {probe(path) for path in sorted(filter(None, paths))}
    fit = [each for each in found if each and each.optimised and each.version >= OLDEST]
    better = sorted(
        fit, key=lambda each: (each.version[:2] == here.version[:2], each), reverse=True
    )
    if better:
        say(f"{here} was built without optimisation; {better[0]} was not, and is taken")
    return [*better, here]


def make_venv() -> None:
    for python in pythons():
        if VENV.exists():
            shutil.rmtree(VENV)
        say(f"making {VENV.name} with {python}")
        if venv_of(python.program):
            return
        shutil.rmtree(VENV, ignore_errors=True)
    version = sysconfig.get_python_version()
    raise DevError(
        "this Python cannot make a virtual environment: it has no ensurepip, and neither uv, "
        f"virtualenv nor pip was found. On Debian or Ubuntu: apt-get install python{version}-venv"
    )


def venv_of(python: str) -> bool:
    """The first way that works: venv with pip, uv, virtualenv, venv filled by an outer pip."""
    if has(python, "ensurepip") and attempt(python, "-m", "venv", str(VENV)):
        return True
    shutil.rmtree(VENV, ignore_errors=True)
    uv = shutil.which("uv")
    if uv and attempt(uv, "venv", "--quiet", "--seed", "--python", python, str(VENV)):
        return True
    if has(python, "virtualenv") and attempt(python, "-m", "virtualenv", "--quiet", str(VENV)):
        return True
    shutil.rmtree(VENV, ignore_errors=True)
    return (
        has(python, "pip")
        and attempt(python, "-m", "venv", "--without-pip", str(VENV))
        and attempt(python, "-m", "pip", "--python", str(PYTHON), "install", "-q", "pip")
    )


def has(python: str, module: str) -> bool:
    return attempt(python, "-c", f"import {module}")


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
    """Run in the foreground; an interrupt and a request to end go to the child, whose exit code
    counts. (A terminal interrupts both; whoever ends this process knows only this one.)"""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        child = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=os.environ)
        for number in early:
            child.send_signal(number)
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except DevError as error:
        say(str(error))
        raise SystemExit(2) from None
