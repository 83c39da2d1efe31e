"""What a program ends with when a user can mend it, or only has to start it again: a single line."""

import os


class StudyError(Exception):
    """A user's mistake or a missing input: names file, key and remedy. Programs print it as one line and end with status 1."""


class StoppedError(StudyError):
    """Work that was told to stop, and saved: started again, it continues. Programs end with 75, "try again" in sysexits.h."""


def exit_status(error: StudyError) -> int:
    """The exit status that tells a cluster or a person what to do next."""
    return os.EX_TEMPFAIL if isinstance(error, StoppedError) else 1
