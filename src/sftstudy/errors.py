"""The one exception for what a user can mend: its message is a single line that names file, key and remedy."""


class StudyError(Exception):
    """A user's mistake or a missing input. Programs print it as one line and end with status 1."""
