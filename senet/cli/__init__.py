"""Floor 7, the command line: `senet COMMAND`. One file per command; the only place where rooms meet.

A command parses its whole line before torch is imported, so help and mistakes answer at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from importlib import import_module

from senet.errors import SenetError

COMMANDS = {
    "train": "train a network, or a plain network and its SE twin as a controlled pair",
    "compare": "train several networks alike, over several seeds, and compare them",
    "reproduce": "a table or figure of the paper: all its rows as fair twins, ours beside the paper's",
    "evaluate": "measure a trained network's error, calibration, speed; single crop or many",
    "ensemble": "several checkpoints, crops and scales as one classifier",
    "predict": "name what is in images",
    "analyze": "what the gates of a network do, class by class and block by block",
    "report": "one page about a run, a comparison or a reproduction, that works anywhere",
    "app": "a page to drop images on and switch units off",
    "models": "list the networks",
    "info": "what a network is made of and what it costs",
    "doctor": "whether a trained network's units are alive and in their place",
    "convert": "other libraries' weights into ours, and back",
    "export": "a trained network as one file that runs elsewhere: ONNX, torch.export",
    "bench": "time networks with SE beside their plain twins and other libraries'",
    "tables": "our figures beside the paper's",
}

USAGE = """usage: senet COMMAND [...]

Squeeze-and-Excitation networks (arXiv:1709.01507).

{commands}

senet COMMAND --help says what a command takes. `senet train` alone trains ResNet-20 and SE-ResNet-20 on real
handwritten digits in about two minutes, with nothing to download.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 2 an error of ours, said in a line; others are raised.

    After a signal that stopped a run, 128 plus the signal's number, as a shell would say.
    """
    argv = sys.argv[1:] if argv is None else argv
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
            from senet.errors import unknown

            raise unknown("command", name, COMMANDS, kind="commands")
        return import_module(f"senet.cli.{name}").run(rest)
    except SenetError as error:
        if not (signum := getattr(error, "signum", 0)):
            print(f"senet {name}: error: {error}", file=sys.stderr)
            return 2
        going_on = shlex.join(["senet", name, "--resume", str(error.folder)])  # type: ignore[attr-defined]
        print(f"senet: {error}. Go on with: {going_on}", file=sys.stderr)
        return 128 + signum
    except KeyboardInterrupt:
        print("senet: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in `senet models | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
