"""The one exception that a user is meant to read."""


class UserError(Exception):
    """What the user gave cannot be used: a file, a row, a tensor, a configuration key.

    The message is one sentence or a short list that names the thing and the remedy. The command
    line prints it without a traceback and exits with 1.
    """
