"""What a program ends with when a user can mend it, or only has to start it again: a single line."""

import os
import sys

OUT_OF_TIME = 99


class StudyError(Exception):
    """A user's mistake or a missing input: names file, key and remedy. Programs print it as one line and end with status 1."""

    told = False


class StoppedError(StudyError):
    """Work that was told to stop, and saved: started again, it continues. Programs end with 75, "try again" in sysexits.h."""


class OutOfTimeError(StoppedError):
    """Work that saved because its job's time is up. Programs end with 99, by which Grid Engine knows a job to be queued again."""


def tell(error: StudyError) -> None:
    """Print an error as one line on stderr, unless that was done."""
    if not error.told:
        print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        error.told = True


def exit_status(error: StudyError) -> int:
    """The exit status that tells a cluster or a person what to do next."""
    if isinstance(error, OutOfTimeError):
        return OUT_OF_TIME
    return os.EX_TEMPFAIL if isinstance(error, StoppedError) else 1
