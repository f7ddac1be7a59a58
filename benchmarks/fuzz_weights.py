"""Files of weights made at random, read by senet: only its own errors, and no tensor is lost in silence.

    python -m benchmarks.fuzz_weights --count 2000

Each file is a small network's tensors behind random wrappers, prefixes, foreign keys and copies, in a random format
under a random ending, and sometimes cut off or damaged. Loading must take all tensors of the network, or raise a
`SenetError` of one line. The tensors taken, those reported unused and those of the mappings that the report lists must
be all tensors in the file.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from senet import create_model, load_weights_
from senet.errors import SenetError
from senet.models.net import ResidualNet, Stage, Stem
from senet.models.network import Network
from senet.units.config import SEConfig
from senet.weights.export import state_as

NET = ResidualNet(
    stem=Stem(width=8, kernel=3, stride=1),
    pool="none",
    stages=tuple(Stage(block="basic", depth=1, mid=8, out=8, stride=stride) for stride in (1, 2, 2)),
    num_classes=3,
)
WRAPPERS = ("state_dict", "model", "model_state", "net", "params", "weights", "0", "ema", "model_ema", "my.own")
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "net.", "my_resnet.", "a.b.")
FOREIGN = ("criterion.weight", "loss.centers", "n_averaged", "num_updates", "metric.total", "head_2.weight", "fc2.bias")
ENDINGS = (".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".npz", ".th", ".txt", "", ".onnx", ".caffemodel", ".PTH")
FORMATS = ("zip", "old", "safetensors", "npz")


class Args:
    """A class that no reader knows."""

    def __init__(self) -> None:
        self.lr = 0.1


def draw(rng: random.Random, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """One mapping: the network's tensors under a prefix, and others beside them."""
    prefix = "".join(rng.choices(PREFIXES, k=rng.choice((0, 0, 1, 1, 2))))
    tensors = {prefix + name: t for name, t in state.items()}
    tensors |= {name: torch.ones(()) for name in rng.sample(FOREIGN, rng.choice((0, 0, 1, 2)))}
    if rng.random() < 0.1:
        del tensors[rng.choice(list(tensors))]
    return tensors


def wrap(rng: random.Random, data: Any) -> Any:
    """Mappings, lists and whatever training leaves beside the weights, around it."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        beside = {"epoch": 3, "args": Args(), "options": argparse.Namespace(a=1), "best": 0.5, "lr": np.float64(0.1)}
        beside["optimizer"] = torch.optim.SGD([torch.ones(2)], momentum=0.9).state_dict()
        chosen = {key: beside[key] for key in rng.sample(sorted(beside), rng.randrange(3))}
        data = [data] if rng.random() < 0.1 else chosen | {rng.choice(WRAPPERS): data}
    return data


def write(rng: random.Random, path: Path, kind: str, data: Any) -> None:
    """Write in one of the formats; those that know tensors alone are given one mapping."""
    if kind == "safetensors":
        save_file({name: t.clone() for name, t in data.items()}, path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **{name: t.numpy() for name, t in data.items()})
    else:
        torch.save(data, path, _use_new_zipfile_serialization=kind == "zip")
    if rng.random() < 0.15:
        content = bytearray(path.read_bytes())
        if rng.random() < 0.6:
            content = content[: rng.randrange(len(content))]
        else:
            content[rng.randrange(min(len(content), 2000))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def one(seed: int, folder: Path, states: list[tuple[Network, dict[str, Tensor]]]) -> str:
    """Make, load and check one file.

    Returns:
        "loaded", or the first words of the error.

    Raises:
        AssertionError: For a tensor that was lost, or an error that is not of one line.
    """
    rng = random.Random(seed)
    network, state = rng.choice(states)
    first = draw(rng, state)
    kind = rng.choice(FORMATS)
    path = folder / f"{seed}{rng.choice(ENDINGS)}"
    data: Any = first
    count = len(first)
    if kind in ("zip", "old"):
        data = wrap(rng, first)
        if isinstance(data, dict) and rng.random() < 0.3:
            second = {name: t + 0 for name, t in draw(rng, state).items()}
            if "second_ema" not in data and data is not first:
                data["second_ema" if rng.random() < 0.5 else "second"] = second
                count += len(second)
    write(rng, path, kind, data)
    model = deepcopy(network)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    try:
        report = load_weights_(model, path, quiet=True)
    except SenetError as error:
        says = str(error)
        assert "\n" not in says, f"{seed}: more than a line: {says}"
        after = model.state_dict()
        assert all(torch.equal(t, after[name]) for name, t in before.items()), f"{seed}: a failed load changed it"
        kinds = "no weights|no known convention|missing|unused|damaged|cannot be read|refused|another shape"
        found = re.search(kinds, says)
        return found[0] if found else says
    finally:
        path.unlink()
    others = [note for note in report.notes if note.startswith("also in the file")]
    said = sum(int(n) for note in others for n in re.findall(r"\((\d+) tensors", note))
    read = len(report.loaded) + len(report.renamed) + len(report.unused)
    assert read + said == count, f"{seed}: {read} read and {said} said of {count}: {report}"
    assert not report.missing, f"{seed}: missing without a word: {report}"
    return "loaded"


def main() -> None:
    """Run it and print how the files ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        states = make_states()
        ends = Counter(one(seed, Path(folder), states) for seed in range(options.seed, options.seed + options.count))
    print(f"{options.count} files: " + ", ".join(f"{count} {how}" for how, count in ends.most_common()))


def make_states() -> list[tuple[Network, dict[str, Tensor]]]:
    """A network that may be loaded, and tensors for it under the names of several libraries."""
    plain, gated = create_model(NET), create_model(NET, se=SEConfig(reduction=4))
    bare = create_model(NET, se=SEConfig(reduction=4, bias=False), pool="none")
    return [
        (plain, dict(plain.state_dict())),
        (gated, dict(gated.state_dict())),
        (plain, state_as(plain, "chenyaofo")),
        (plain, state_as(plain, "akamaster")),
        (gated, state_as(bare, "moskomule")),
    ]


if __name__ == "__main__":
    main()
