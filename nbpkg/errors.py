"""The one exception that users are meant to see."""


class NbpkgError(Exception):
    """A mistake or a missing thing that the user can mend.

    The message is one line that names what is wrong and what to do about it; the command line prints it and
    exits with 2.
    """
