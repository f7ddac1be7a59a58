"""`senet app`: a page on this machine where images are dropped and units switched off."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Any

from senet.cli.checkpoint import add_checkpoint, is_untrained, open_checkpoint
from senet.cli.parse import Parser
from senet.errors import ConfigError, DataError
from senet.recipes.recipe import DataRecipe
from senet.runs.gates import worth

if TYPE_CHECKING:
    from senet.analysis.switchboard import Averages
    from senet.runs.checkpoint import Checkpoint

DESCRIPTION = """Serve a page: drop an image, see the prediction and each unit's gates, switch units off.

The page is for this machine alone, asks no other, and forgets the images. Ctrl-C ends it. The gates are shown beside
class averages: those that `senet analyze` wrote (--gates, or gates.npz in the run's folder), or measured by a button.

CHECKPOINT may also be another library's network, timm:NAME or torchvision:NAME, with --pretrained weights; without,
they are random. Needs the extra: pip install 'senet[app]'"""

HERE = ("127.0.0.1", "localhost", "::1")
EXAMPLES = 10
"""Largest number of example images."""


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("app", "CHECKPOINT", DESCRIPTION)
    add_checkpoint(parser)
    parser.option("gates", default="", help="averages to compare with, a gates.npz of senet analyze")
    parser.option("examples", default="", help="folder of images to pick from")
    parser.device()
    parser.option("host", default=HERE[0], help="address to serve at; 0.0.0.0 is for everyone on the network")
    parser.option("port", type=int, default=0, low=0, high=65_535, help="port; 0: the first free one from 7860")
    parser.switch("browser", help="open the page in the browser")
    found = parser.read(argv)

    from senet.app.page import PageContent, build, check_extra, serve

    check_extra()

    import torch

    from senet.analysis.switchboard import Switchboard
    from senet.data import load_image, normalise
    from senet.device import pick_device
    from senet.diagnosis.labels import label
    from senet.weights.ilsvrc import named

    device = pick_device(found["device"], field="--device")
    checkpoint = open_checkpoint(found)
    model, recipe, classes, title = checkpoint.model, checkpoint.recipe.data, checkpoint.classes, checkpoint.recipe.name
    if is_untrained(found):
        library, _, title = title.partition(":")
        about, folder = f"From {library}, with {'released' if found['pretrained'] else 'random'} weights", None
        classes = named(classes)
    else:
        path = Path(found["CHECKPOINT"]).expanduser()
        error = next((v for k, v in checkpoint.measurements.items() if k.endswith("top1_error")), None)
        about = f"Trained on {Path(recipe.name).name}" + ("" if error is None else f", top-1 error {error:.2f} %")
        folder = path if path.is_dir() else path.parent
    board = Switchboard(
        model.to(device),
        torch.zeros(1, recipe.channels, recipe.image_size, recipe.image_size, dtype=torch.float32, device="cpu"),
    )
    averages, source = averages_of(found["gates"], folder, classes)
    about += f". {len(board.units)} units, {len(classes):,} classes" + (f", {source}" if source else "") + "."
    with TemporaryDirectory(prefix="senet-app-") as temporary:
        # Where gradio puts what is dropped, which it would not delete at the end.
        os.environ["GRADIO_TEMP_DIR"] = temporary
        content = PageContent(
            board=board,
            prepare=lambda file: normalise(load_image(file, recipe)[None], recipe),
            classes=classes,
            labels={unit: label(unit) for unit in board.units if label(unit) != unit},
            title=title,
            about=about,
            averages=averages,
            examples=examples(found["examples"], recipe, Path(temporary)),
            measure=None if is_untrained(found) else lambda: measured(checkpoint),
        )
        page = build(content)
        if found["host"] not in HERE:
            print(
                f"senet app: warning: --host {found['host']}: everyone who reaches this machine can use the page, "
                "without a password",
                file=sys.stderr,
            )
        address = serve(page, host=found["host"], port=found["port"] or None, browser=found["browser"])
        print(f"{title}: {address} (Ctrl-C ends it)", flush=True)
        try:
            wait_for_a_signal()
        finally:
            page.close(verbose=False)
    return 0


def wait_for_a_signal() -> None:
    """Block until Ctrl-C or SIGTERM."""
    ended = Event()
    before = {n: signal.signal(n, lambda *_: ended.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Windows delivers Ctrl-C between waits, not in one.
        while not ended.wait(0.5):
            pass
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def averages_of(file: str, folder: Path | None, classes: Sequence[str]) -> tuple[Averages | None, str]:
    """Read the class averages of a `gates.npz` and say how many images they are of; None if there is no file.

    Args:
        file: the file; "" to look for one in `folder`.
        folder: the run's folder, if there is one.
        classes: names of the network's outputs.

    Raises:
        DataError: The file is not a `gates.npz`.
        ConfigError: Its classes are not the network's.
    """
    from senet.analysis.statistics import Gates
    from senet.analysis.switchboard import Averages
    from senet.weights.ilsvrc import named

    beside = [] if folder is None else [folder / "gates.npz", folder / "analysis" / "gates.npz"]
    path = Path(file).expanduser() if file else next((p for p in beside if p.is_file()), None)
    if path is None:
        return None, ""
    gates = Gates.load(path)
    if named(gates.classes) != named(classes):
        raise ConfigError(f"--gates: {path} has {len(gates.classes)} classes that are not the network's")
    averages = Averages({u.name: u.mean for u in gates.units}, {u.name: u.overall_mean for u in gates.units})
    gain = worth(gates.top1_error, gates.ablation, gates.images)
    return averages, f"averages over {gates.images:,} images" + (f". {gain.removesuffix('.')}" if gain else "")


def measured(checkpoint: Checkpoint) -> Averages:
    """Measure the class averages over the checkpoint's own images."""
    from senet.analysis.collect import collect_gates
    from senet.analysis.images import load, mixed
    from senet.analysis.switchboard import Averages
    from senet.data import open_part

    recipe = checkpoint.recipe.data
    part = open_part(recipe, trained_on=checkpoint.trained_on)
    device = next(checkpoint.model.parameters()).device
    batches = load(part.split, mixed(part.split.targets, 0, recipe.eval_batch_size), device)
    gates = collect_gates(checkpoint.model, batches, part.classes)
    return Averages({u.name: u.mean for u in gates.units}, {u.name: u.overall_mean for u in gates.units})


def examples(folder: str, recipe: DataRecipe, temporary: Path) -> list[Path]:
    """Return example images: evenly spaced files of a folder, or else held-out images of the checkpoint's data set.

    Raises:
        DataError: The folder has no images.
    """
    from senet.data import open_data
    from senet.data.folders import list_images

    if not folder and recipe.name == "digits":
        val: Any = open_data(recipe, 0).measured
        paths = [temporary / f"{digit}.png" for digit in range(10)]
        for digit, path in enumerate(paths):
            val.whole(int((val.targets == digit).nonzero()[0])).save(path)
        return paths
    held_out = [path for part in ("val", "test") if (path := Path(recipe.name).expanduser() / part).is_dir()]
    if not folder and not held_out:
        return []
    where = Path(folder).expanduser() if folder else held_out[0]
    files = [Path(file) for file in list_images(where)[0]]
    if not files:
        raise DataError(f"{where}: no images in this folder")
    count = min(EXAMPLES, len(files))
    return [files[i * len(files) // count] for i in range(count)]
