"""What can go wrong in the worker, and the one reaction that each kind has.

WorkerError
├── SettingsError   the start is refused; the text names the setting, the value and what is allowed
├── StartError      something that the worker needs is not there (a topic, the model)
│   └── KafkaAway   no broker answers: the service waits, a command ends
├── RegistryError   the schema registry does not answer: the process ends, and nothing is decided without it
└── Rejected        one event is poison: it becomes a dead letter with `code`, and nobody else waits
"""

ERROR_CODES = (
    "bad-event", "url-forbidden", "not-found", "fetch-failed", "fetch-timeout", "too-large",
    "unsupported-format", "decode-failed", "too-many-pixels", "encode-failed",
)  # fmt: skip


class WorkerError(Exception):
    """Base of all errors that the worker raises on purpose; the text is written for an operator."""


class SettingsError(WorkerError):
    """One or more settings are wrong."""


class StartError(WorkerError):
    """Something that the worker needs to start is missing; the text says what to do."""


class KafkaAway(StartError):
    """No broker answers, for no reason that only an operator can remove."""


class RegistryError(WorkerError):
    """The schema registry is away, or refuses; `status` is its answer, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Rejected(WorkerError):
    """An event that no retry will fix."""

    def __init__(self, code: str, stage: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.stage = stage
