"""A node's configuration: a TOML file, the environment and options in, one frozen Config out.

    defaults < file < environment (JANUSKV_NODE__LISTEN, JANUSKV_MODE) < options of the command

What can be set stands in kv/config/sections.py, how values are written in kv/config/values.py, what
they must be to each other in kv/config/rules.py. Here: finding the settings of all three sources,
and the complaints. All problems are found before anything is raised, each with its place (file and
line, variable, option), what is wrong and what to write. Whatever is given, the outcome is a Config
or a ConfigError.

Pure but for the last function, `load_config`, which reads the file.

Of the environment, every name that begins with JANUSKV_ and has `__` must be a setting, since a
misspelt one would be passed over in silence; other JANUSKV_ names belong to other programs.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kv.config.rules import breaches
from kv.config.sections import Config, all_settings, walk
from kv.config.table import Setting, key_of, sections_of, settings_of
from kv.config.values import BadValue
from storage.errors import InvalidOptionError

ENVIRONMENT_PREFIX: Final = "JANUSKV_"
FILE_MAX_BYTES: Final = 4 * 1024 * 1024

SETTINGS: Final = all_settings()
_TABLE: Final = re.compile(r"\s*\[\s*([A-Za-z0-9_.\s\"'-]+?)\s*\]\s*(?:#.*)?$")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_.\"'-]+(?:\s*\.\s*[A-Za-z0-9_.\"'-]+)*)\s*=")


@dataclass(frozen=True, slots=True)
class Problem:
    """Invariant: `message` says what is wrong and what to write."""

    setting: str
    """Its path, as `node.listen`; empty if it is about a whole source."""
    message: str
    source: str
    """The file, or the variable, or the option."""
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        return " ".join(filter(None, (f"{place}:", self.setting, self.message)))


class ConfigError(InvalidOptionError):
    """Nothing was started. `problems` has everything that was found wrong, not only the first."""

    code = "invalid_config"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        assert problems
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def environment_name(path: str) -> str:
    return ENVIRONMENT_PREFIX + path.upper().replace(".", "__")


def parse_config(
    text: str = "",
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    source: str = "configuration",
) -> Config:
    """`overrides` maps paths to texts or values, None where an option was not given."""
    reader = _Reader(source, text)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        reader.problems.append(Problem("", f"this is no TOML ({why}); mend that first", source))
        table = {}
    return reader.read_all(table, environ or {}, overrides or {})


def config_of(
    table: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    source: str = "configuration",
) -> Config:
    """The same from what tomllib gives."""
    return _Reader(source, "").read_all(table, environ or {}, overrides or {})


class _Reader:
    """Gathers values and problems. The later source wins, but a bad value is told in any."""

    def __init__(self, source: str, text: str) -> None:
        self._source = source
        self._lines = dict(_lines(text))
        self.problems: list[Problem] = []
        self._values: dict[str, Any] = {}
        self._origin: dict[str, tuple[str, int | None]] = {}
        self._bad: set[str] = set()

    def read_all(
        self,
        table: Mapping[str, object],
        environ: Mapping[str, str],
        overrides: Mapping[str, object],
    ) -> Config:
        self._read_table(table, Config, "")
        self._read_environment(environ)
        self._read_overrides(overrides)
        config: Config = self._build(Config, "")
        for breach in breaches(config):
            if not self._bad.intersection(breach.paths):
                path = breach.paths[0]
                near = next((p for p in breach.paths if p in self._origin), None)
                place = self._origin[near] if near else (self._source, None)
                self.problems.append(Problem(path, breach.message, *place))
        if self.problems:
            raise ConfigError(tuple(self.problems))
        return config

    # --- the sources ---

    def _read_table(self, table: Mapping[str, object], section: type[Any], path: str) -> None:
        known = {setting.path: setting for setting in settings_of(section, path)}
        inner = sections_of(section)
        for key, value in table.items():
            here = f"{path}.{key}" if path else str(key)
            line = self._lines.get(here)
            if here in known:
                self._take(known[here], value, (self._source, line), as_text=False)
            elif key in inner:
                if isinstance(value, Mapping):
                    self._read_table(value, inner[key], here)
                else:
                    self._bad.update(name for name in SETTINGS if name.startswith(f"{here}."))
                    self._complain(here, f"is a section; write [{here}] above its settings", line)
            else:
                self._complain(here, unknown(here, [*known, *_paths(inner, path)], value), line)

    def _read_environment(self, environ: Mapping[str, str]) -> None:
        names = {environment_name(path): setting for path, setting in SETTINGS.items()}
        for name in sorted(environ):
            if name in names:
                self._take(names[name], environ[name], (name, None), as_text=True)
            elif name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]}?" if near else "januskv config sample lists all"
                message = f"there is no such setting; {hint} Else unset the variable"
                self.problems.append(Problem("", message, _printable(name)))

    def _read_overrides(self, overrides: Mapping[str, object]) -> None:
        for path, value in overrides.items():
            if value is None:
                continue
            source = f"option {_printable(path)}"
            if path not in SETTINGS:
                message = unknown(path, list(SETTINGS), value)
                self.problems.append(Problem(_printable(path), message, source))
                continue
            text = str(value) if isinstance(value, str | Path) else None
            given = value if text is None else text
            self._take(SETTINGS[path], given, (source, None), as_text=text is not None)

    # --- values ---

    def _take(
        self, setting: Setting, value: Any, origin: tuple[str, int | None], *, as_text: bool
    ) -> None:
        kind = setting.kind
        try:
            read = kind.read_text(value) if as_text else kind.read(value)
        except BadValue as error:
            self._bad.add(setting.path)
            self._bad.add(setting.path.partition(".")[0])
            self.problems.append(Problem(setting.path, str(error), *origin))
        else:
            self._values[setting.path] = read
            self._origin[setting.path] = origin

    def _build(self, section: type[Any], path: str) -> Any:
        given = {
            setting.attribute: self._values[setting.path]
            for setting in settings_of(section, path)
            if setting.path in self._values
        }
        for name, inner in sections_of(section).items():
            given[name] = self._build(inner, f"{path}.{name}" if path else name)
        return section(**given)

    def _complain(self, path: str, message: str, line: int | None) -> None:
        self.problems.append(Problem(_printable(path), message, self._source, line))


# --- names -----------------------------------------------------------------------------------


def unknown(path: str, siblings: list[str], value: object) -> str:
    """What is said about a key that no setting has: where it probably belongs."""
    _, _, key = path.rpartition(".")
    bare = re.sub(r"_(ms|s|seconds|bytes|mb|mib)$", "", key)
    by_key: dict[str, str] = {}
    for name in siblings:
        by_key.setdefault(name.rpartition(".")[2], name)
    near = bare if bare in by_key else None
    if near is None:
        found = difflib.get_close_matches(key, by_key, n=1, cutoff=0.6)
        near = found[0] if found else None
    if near is not None:
        meant = by_key[near]
        says = f", {SETTINGS[meant].kind.says}" if meant in SETTINGS else ""
        return f"is no setting; did you mean {meant}{says}?"
    elsewhere = [name for name in SETTINGS if key_of(key) == name.rpartition(".")[2]]
    if elsewhere:
        where = " or ".join(elsewhere)
        return f"is no setting here; did you mean {where}?"
    found = difflib.get_close_matches(path, [*SETTINGS, *dict(walk())], n=1, cutoff=0.6)
    kind = "section" if isinstance(value, Mapping) else "setting"
    hint = f"did you mean {found[0]}?" if found else "januskv config sample lists all"
    return f"is no {kind}; {hint}"


def _paths(inner: Mapping[str, object], path: str) -> Iterator[str]:
    return (f"{path}.{name}" if path else name for name in inner)


def _printable(name: str) -> str:
    """A name as a complaint shows it: no control characters, not endless."""
    clean = "".join(c if c.isprintable() else "?" for c in name)
    return clean if len(clean) <= 120 else clean[:117] + "..."


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Where each key of a TOML text stands, by its path; the reader only looks up what it knows
    to be there. tomllib does not tell, so lines are matched; those inside long strings are not."""
    table, closing = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if closing:
            closing = "" if closing in line else closing
            continue
        if header := _TABLE.match(line):
            table = _bare(header[1])
            yield table, number
        elif key := _KEY.match(line):
            name = _bare(key[1])
            yield (f"{table}.{name}" if table else name), number
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                closing = quotes


def _bare(name: str) -> str:
    return re.sub(r"[\s\"']", "", name)


# --- the one function that reads -------------------------------------------------------------


def load_config(
    path: str | Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Without a path: defaults, environment and overrides. Raises ConfigError."""
    if path is None:
        return parse_config("", environ, overrides, source="defaults")
    name = _printable(str(path))
    try:
        with Path(path).open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
        if len(content) > FILE_MAX_BYTES:
            raise ConfigError(
                (Problem("", f"is over {FILE_MAX_BYTES} bytes; name a configuration file", name),)
            )
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        message = f"cannot be read ({why}); name a readable TOML file"
        raise ConfigError((Problem("", message, name),)) from error
    return parse_config(text, environ, overrides, source=name)
