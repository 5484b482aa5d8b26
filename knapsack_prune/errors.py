"""The exceptions that are told to the user without a traceback."""

from signal import SIGINT


class RequestError(Exception):
    """A request that is wrong or cannot be met; the command line ends with exit code 2.

    The message gives the number, the rule and the remedy, in that order, and is complete in itself:
    it is shown to the user without a traceback.
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (SIGINT) or SIGTERM, once everything that was done is on the disk; the message says how to go on."""

    def __init__(self, message: str, signal: int = SIGINT) -> None:
        super().__init__(message)
        self.signal = int(signal)
