"""Digests of what a change of structure must not change: run on two commits, then compare the two files.

    python -m benchmarks.digests before.json        on one commit
    python -m benchmarks.digests after.json         on the other
    python -m benchmarks.digests --compare before.json after.json

Weights and metrics of the digits pair (one and two threads, interrupted and resumed), gates with ablations, `info` of
every network, conversions to and from every naming convention, logits of `optimize` for eleven networks. Digests of
tensors hold on one kind of machine and one version of torch.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import senet
from senet.cli import main as command
from senet.errors import SenetError
from senet.weights.export import state_as
from senet.weights.load import CONVENTIONS, load_weights_

OPTIMIZED = ("se_resnet50", "resnet50", "se_resnext50_32x4d", "senet154", "vgg16_bn", "se_bn_inception", "se_mobilenet")
OPTIMIZED += ("se_shufflenet_g3", "se_resnet20", "se_preresnet164", "se_inception_resnet_v2")
CONVERTED = ("resnet18", "resnet50", "se_resnet50", "se_resnext50_32x4d", "senet154", "se_bn_inception", "vgg16_bn")
CONVERTED += (
    "se_inception_resnet_v2",
    "se_mobilenet",
    "se_shufflenet_g3",
    "se_preresnet110",
    "wrn_16_8",
    "se_resnet20",
)
CLOCKS = ("seconds", "step_ms")


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def of_tensors(state: dict[str, Any]) -> str:
    parts = []
    for name in sorted(state):
        t = state[name]
        if isinstance(t, torch.Tensor):
            parts.append(f"{name} {tuple(t.shape)} {t.dtype}".encode())
            parts.append(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest(b"\0".join(parts))


def of_runs(folder: Path) -> dict[str, str]:
    found = {}
    for best in sorted(folder.rglob("best.safetensors")):
        state = load_file(best)
        kind = "SE" if any(".se." in name for name in state) else "plain"
        last = torch.load(best.parent / "last.ckpt", weights_only=True, map_location="cpu")
        with open(best.parent / "metrics.csv", newline="") as file:
            rows = [[float(v) for k, v in sorted(r.items()) if k not in CLOCKS] for r in csv.DictReader(file)]
        found |= {f"{kind} best": of_tensors(state), f"{kind} last": of_tensors(last["state_dict"])}
        found[f"{kind} metrics"] = digest(json.dumps(rows).encode())
    return found


def senet_in(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "senet", *words, "--epochs", "2", "--out", str(folder)]


def trained(folder: Path) -> dict[str, Any]:
    """The pair on digits, two epochs; stopped by Ctrl-C in its third epoch and resumed; the gates of its SE network."""
    found: dict[str, Any] = {}
    for threads in ("1", "2"):
        subprocess.run(senet_in(folder / threads, "train", "--threads", threads), check=True, capture_output=True)
        found[f"train, {threads} threads"] = of_runs(folder / threads)
    line = senet_in(folder / "stopped", "train", "--threads", "1")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    epochs = 0
    for text in process.stdout:
        epochs += text.startswith("epoch")
        if epochs == 3:
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            break
    process.stdout.read()
    assert process.wait() == 130, "the run ended before it could be stopped"
    resume = [sys.executable, "-m", "senet", "train", "--resume", str(folder / "stopped")]
    subprocess.run(resume, check=True, capture_output=True)
    found["interrupted and resumed"] = of_runs(folder / "stopped")
    run = next(f.parent for f in (folder / "1").rglob("best.safetensors") if f.parent.name.startswith("se_"))
    analyze = [sys.executable, "-m", "senet", "analyze", str(run), "--out", str(folder / "gates"), "--ablate"]
    subprocess.run(analyze, check=True, capture_output=True)
    gates = np.load(folder / "gates" / "gates.npz")
    found["gates"] = {k: digest(gates[k].tobytes()) for k in sorted(gates.files) if gates[k].dtype.kind in "fiu"}
    return found


def described() -> dict[str, Any]:
    """`senet info NAME --json` of every network."""
    found = {}
    for name in senet.list_models():
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            assert command(["info", name, "--json"]) == 0
        found[name] = digest(json.dumps(json.loads(text.getvalue()), sort_keys=True).encode())
    return {"info": found}


def converted() -> dict[str, Any]:
    """Each network under the names of each library, and back."""
    found: dict[str, Any] = {}
    forms: list[dict[str, Any]] = [{}, {"pool": "pad", "stride_on": "3x3"}]
    forms += [forms[1] | {"se": senet.SEConfig(bias=True, round_to=8)}]
    for name in CONVERTED:
        for fields in forms:
            try:
                model = senet.create_model(name, seed=0, **fields)
            except SenetError:
                continue
            for convention in dict.fromkeys(c.name for c in CONVENTIONS if c.name != "senet"):
                key = f"{name} {sorted(fields)} {convention}"
                try:
                    state = state_as(model, convention)
                except SenetError:
                    found[key] = "refused"
                    continue
                again = senet.create_model(model.net, seed=1)
                load_weights_(again, state, convention=convention)
                found[key] = [of_tensors(state), of_tensors(again.state_dict())]
    return found


def optimized() -> dict[str, Any]:
    """Logits of networks and of their optimized forms."""
    found = {}
    for name in OPTIMIZED:
        model = senet.create_model(name, seed=0).eval()
        size, generator = model.net.image_size, torch.Generator().manual_seed(1)
        x = torch.randn(1, 3, size, size, generator=generator)
        fast = senet.optimize(model, x)
        with torch.no_grad():
            found[f"optimize {name}"] = [of_tensors({"y": model(x)}), of_tensors({"y": fast(x)})]
    return found


def compare(before: Path, after: Path) -> int:
    """Print what differs; exit status 1 where anything does."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    differing = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    print(f"{len(old.keys() | new.keys()) - len(differing)} equal, {len(differing)} different")
    for key in sorted(differing):
        print(f"  {key}: {old.get(key)} -> {new.get(key)}")
    return 1 if differing else 0


def main() -> int:
    if sys.argv[1:2] == ["--compare"]:
        return compare(Path(sys.argv[2]), Path(sys.argv[3]))
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in (described, converted, optimized, lambda: trained(Path(folder))):
            found |= part()
            print(f"{len(found)} entries", file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
