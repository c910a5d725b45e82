"""The `repirl` command. Thin: verbs parse, call, and print; heavy imports happen inside them.

Exit codes: 0 done; 2 the user's mistake, with one line `error: ...`; 1 a fault of ours (or, for `--check` verbs, "no");
130 interrupted.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence

import typer

from repirl import __version__
from repirl.cli import (
    adapt,
    attack,
    bench,
    check,
    compare,
    demos,
    evaluate,
    grade,
    judge,
    leaderboard,
    listing,
    scale,
    score,
    show,
    train,
    verify,
)
from repirl.errors import EngineFault, GradingFault, NumericalFault, UserError
from repirl.processes import end_with_parent, interrupt_on_sigterm, refuse_unreadable

_CONTINUE = ("train", "bench", "adapt", "demos")
"""Verbs that go on from what an interrupted one left."""

# BadParameter < UsageError < ClickException: the base is public only in some versions of typer.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Process reward models from demonstrations by inverse reinforcement learning, compared honestly.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (
    listing,
    show,
    check,
    train,
    demos,
    evaluate,
    judge,
    score,
    scale,
    adapt,
    attack,
    grade,
    compare,
    bench,
    leaderboard,
    verify,
):
    module.register(app)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code. Faults that nobody foresaw keep their traceback (exit 1)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # half a surrogate pair, as a model may write it: as JSON has it
    verb = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    interrupted = f"interrupted{'; the same command goes on from what is saved' if verb in _CONTINUE else ''}"
    try:
        result = app(args=None if arguments is None else list(arguments), prog_name="repirl", standalone_mode=False)
    except UserError as mistake:
        return _complain(f"error: {mistake}", 2)
    except _UsageError as mistake:
        return _complain(f"error: {_usage(mistake)}", 2)
    except (GradingFault, NumericalFault, EngineFault) as fault:
        return _complain(f"fault: {fault}", 1)
    except (KeyboardInterrupt, typer.Abort):
        return _complain(interrupted, 130)
    except BrokenPipeError:
        # The reader of our output went away (`repirl list | head`): say nothing, also not when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as fault:
        return _complain(f"fault: {_disk(fault)}", 1)
    # Typer turns an interrupt inside a verb into this exit code, without a word.
    return _complain(interrupted, 130) if result == 130 else result if isinstance(result, int) else 0


def _usage(mistake: Exception) -> str:
    """What is wrong with the command line, which option, and where its help is."""
    message = mistake.format_message() if isinstance(mistake, typer.BadParameter) else str(mistake)
    context = getattr(mistake, "ctx", None)
    command = context.command_path if context is not None else "repirl"
    return f"{message.rstrip('.')}; see `{command} --help`"


def _disk(fault: OSError) -> str:
    """Which file, what is wrong with it, and what to do."""
    todo = {
        errno.ENOSPC: "free some space and run the same command again",
        errno.EDQUOT: "free some space and run the same command again",
        errno.EROFS: "give a folder that can be written",
        errno.EACCES: "give a folder that you may write, or mend its rights",
        errno.ENOENT: "it was moved or deleted meanwhile: put it back, or start again",
    }.get(fault.errno or 0, "look at the disk, then run the same command again")
    where = f" {fault.filename!r}" if fault.filename else ""
    return f"cannot use the file{where} ({fault.strerror or fault}); {todo}"


def _complain(message: str, code: int) -> int:
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    return code


def main() -> None:
    """Entry point of the console script."""
    end_with_parent()
    refuse_unreadable()
    interrupt_on_sigterm()
    code = run()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is said: an interrupt ends the process without a traceback
    sys.exit(code)
