"""The one exception for requests that are wrong or cannot be met."""


class RequestError(Exception):
    """A request that is wrong or cannot be met; the command line ends with exit code 2.

    The message gives the number, the rule and the remedy, in that order, and is complete in itself:
    it is shown to the user without a traceback.
    """
