"""The command line: `senet COMMAND`, one file per command.

A command reads its whole line before it imports torch, so help and mistakes answer at once.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback
from importlib import import_module

from senet.cli.output import styled
from senet.errors import TRAIN_LIBRARIES, MissingExtraError, SenetError, unknown

COMMANDS = {
    "train": "train a network, or a plain network and its SE twin as a controlled pair",
    "compare": "train several networks with one recipe and several seeds, and compare them",
    "reproduce": "train the rows of one of the paper's tables and compare with its figures",
    "evaluate": "measure error, calibration and speed of a trained network; one crop or many",
    "ensemble": "average several checkpoints, crops and scales",
    "predict": "classify images",
    "analyze": "measure the gates of a network by class and by block",
    "report": "write one offline HTML page about a run, a comparison or an analysis",
    "app": "serve a page to classify images and switch units off",
    "models": "list the networks",
    "info": "show a network's stages, parameters and multiply-adds",
    "doctor": "check that a trained network's attention units are active and well placed",
    "convert": "convert weights from and to other libraries",
    "shard": "write a folder of images as tars that training reads by index, also over the network",
    "export": "write a trained network as ONNX or torch.export",
    "bench": "time SE networks, their plain twins and other libraries' networks",
    "tables": "compare parameters and multiply-adds with the paper's",
}

USAGE = """usage: senet COMMAND [...]

Squeeze-and-Excitation networks (arXiv:1709.01507).

{commands}

senet COMMAND --help says what a command takes. `senet train` alone trains ResNet-20 and SE-ResNet-20 on real
handwritten digits in about two minutes, with nothing to download.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status.

    Returns:
        0 if done; 1 if one of several runs or timings failed, or the doctor found a fault; 2 after an error, printed as
        one line; 70 after an internal error; 130 after Ctrl-C; 128 plus its number after another signal; 141 if
        the reader of standard output closed it, as in `senet models | head`.
    """
    if sys.stdout is None:
        # Closed by who started us; print would write nothing, and libraries would fail.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name may hold what the terminal's encoding cannot.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 141
    except OSError as error:
        _discard_output()
        print(f"senet: error: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return 2


def _discard_output() -> None:
    """Send standard output nowhere: Python flushes it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())))
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        from senet import __version__

        print(__version__)
        return 0
    name, *rest = argv
    try:
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS, kind="commands")
        return _run_command(name, rest)
    except SenetError as error:
        if not (signum := getattr(error, "signum", 0)):
            print(f"senet {name}: {styled('error', 'red', sys.stderr)}: {error}", file=sys.stderr)
            return 2
        resume = shlex.join(["senet", name, "--resume", str(error.folder)])  # type: ignore[attr-defined]
        print(f"senet: {error}. Resume with: {resume}", file=sys.stderr)
        return 128 + signum
    except KeyboardInterrupt:
        print("senet: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("SENET_TRACEBACK"):
            raise
        if reason := _machine(error):
            print(f"senet {name}: {styled('error', 'red', sys.stderr)}: {reason}", file=sys.stderr)
            return 2
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"senet {name}: unexpected {type(error).__name__}: {_line(error)} ({place.filename}:{place.lineno}); "
            "SENET_TRACEBACK=1 shows the traceback; please report it",
            file=sys.stderr,
        )
        return 70


def _machine(error: Exception) -> str:
    """What the machine refused, in a line: a file, or memory; "" for other errors."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # torch's errors, told by their names so that torch is not imported for a wrong command line.
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or "DefaultCPUAllocator" in str(error):
        return "not enough memory; smaller batches or images need less"
    return ""


def _line(error: Exception) -> str:
    """The message of an error, on one line."""
    return " ".join(str(error).split())


def _run_command(name: str, argv: list[str]) -> int:
    try:
        return import_module(f"senet.cli.{name}").run(argv)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN_LIBRARIES:
            raise
        raise MissingExtraError("training, data and pages", "train") from error
