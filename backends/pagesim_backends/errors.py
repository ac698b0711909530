"""What backends raise before any work."""

from __future__ import annotations

from pagesim.errors import BackendError, ConfigError


class UnavailableError(BackendError, ConfigError):
    """This machine, its memory or these sizes do not allow the backend; says what would."""
