"""What a program ends with when a user can mend it, or only has to start it again: a single line."""

import os
import sys


class StudyError(Exception):
    """A user's mistake or a missing input: names file, key and remedy. Programs print it as one line and end with status 1."""

    told = False


class StoppedError(StudyError):
    """Work that was told to stop, and saved: started again, it continues. Programs end with 75, "try again" in sysexits.h."""


def tell(error: StudyError) -> None:
    """Print an error as one line on stderr, unless that was done."""
    if not error.told:
        print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        error.told = True


def exit_status(error: StudyError) -> int:
    """The exit status that tells a cluster or a person what to do next."""
    return os.EX_TEMPFAIL if isinstance(error, StoppedError) else 1
