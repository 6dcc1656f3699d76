"""What can go wrong with the proof itself; a broken engine is a finding, not an error."""

from __future__ import annotations

from storage.errors import JanusError


class PowerCutError(JanusError):
    """The harness could not do its work. It says nothing about the engine."""

    code = "power_cut"


class TracingUnavailableError(PowerCutError):
    """This machine does not let a process trace its own child."""

    code = "tracing_unavailable"


class RecordingError(PowerCutError):
    """The writer did something that the recording cannot describe, so no image would be true."""

    code = "recording"
