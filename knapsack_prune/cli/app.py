"""The application and its boundary: which exception becomes which exit code, and how parameters become flags."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from types import FrameType

from cyclopts import App, CycloptsError

from knapsack_prune.cli.console import notes
from knapsack_prune.errors import Interrupted, RequestError
from knapsack_prune.settings import ParentSettings, RunSettings

app = App(
    name="knapsack-prune",
    help="Plan which channels of a trained network to keep under a budget, and prove the plan optimal.",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    help_format="plaintext",
)

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EIO)
"""Errors of the disk that no writer has told in its own words, as of standard output."""

app.register_install_completion_command(
    help="Set up completion for your shell: bash, zsh, fish or PowerShell."
)

SPELLED = {"budgets": "budget"}
"""Flags that are not their setting's name: given several times, each adds one."""


def run_app() -> None:
    """Run the application; a request that is wrong ends it with exit code 2 and one message on stderr.

    SIGTERM (Docker, Slurm) ends a command as Ctrl-C does; exit codes are 143 and 130.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        # A lone hyphen is a value (standard output), which cyclopts takes for half an option.
        app(["./-" if token == "-" else token for token in sys.argv[1:]])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads, as in `inspect PLAN | head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        from solvers.errors import SolverError  # takes longer to import than --help to print

        if isinstance(error, CycloptsError | RequestError | SolverError):
            message = with_flags(str(error))
        elif isinstance(error, OSError) and error.errno in DISK:
            message = f"cannot write {error.filename or 'the output'}: {error.strerror}"
        else:
            raise
        notes().print(f"error: {message}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Interrupted) else Interrupted("nothing was written")
        notes().print(f"interrupted: {with_flags(str(stopped))}", markup=False, soft_wrap=True)
        sys.exit(128 + stopped.signal)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Interrupted("nothing was written", number)


def command_line() -> list[str]:
    """What was typed, for the logs that let a result be made again."""
    return [app.name[0], *sys.argv[1:]]


def with_flags(message: str) -> str:
    """A message of the library, which names parameters in backticks, with the flags that set them."""
    sections = (ParentSettings, *(section.annotation for section in RunSettings.model_fields.values()))
    names = {name for section in sections for name in getattr(section, "model_fields", ())} | {"output"}
    return re.sub(
        r"`([a-z][a-z0-9_]*)`",
        lambda match: (
            "--" + SPELLED.get(match[1], match[1]).replace("_", "-") if match[1] in names else match[0]
        ),
        message,
    )
