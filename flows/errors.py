"""What can go wrong in orchestration. Every message names the thing and says what to do."""

from __future__ import annotations


class FlowError(Exception):
    """Base class of the errors of `flows`."""


class UnknownPresetError(FlowError):
    """A preset was asked for that does not exist."""


class OverrideError(FlowError):
    """An override `a.b=c` names no field, or its value does not fit the field."""


class ProcessFailedError(FlowError):
    """A launched process ended with an exit status other than zero; the message ends with the last lines it printed."""


class TrainingFailedError(FlowError):
    """The training processes ended without an adapter; the message is theirs where they left one."""


class TrainingCrashedError(TrainingFailedError):
    """The training processes ended without a message of their own: killed, or broken by the machine."""


class ProcessTimeoutError(FlowError):
    """A launched process ran longer than its wall-clock limit and was ended."""


class ProcessCancelledError(FlowError):
    """The flow run was cancelled while the process ran; the process tree was ended."""


class MissingInputError(FlowError):
    """A stage lacks a file that an earlier stage, or the user, has to provide."""


class BrokenFileError(FlowError):
    """A JSON file of a run is empty or cut; names it."""


class SettingsError(FlowError):
    """A setting of the environment is unusable."""


class ServeError(FlowError):
    """Server, worker or deployments could not be started, or ended by themselves."""


class SettingsChangedError(FlowError):
    """A stage would go on with another configuration than the one that made what it works on; lists the changes."""


class RunInUseError(FlowError):
    """Another command works on the same run, so that this one cannot."""


class PreflightError(FlowError):
    """Something that a later stage needs is missing or wrong; lists all of it, with remedies."""
