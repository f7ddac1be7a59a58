"""What SE costs in ONNX Runtime on a CPU: SE-ResNet-50 beside ResNet-50, exported as they are and rewritten.

    python -m benchmarks.onnx_cost [--threads 2] [--batches 1,8] [--repeats 40] [--size 224] [--json FILE]

    as it is    export_onnx(..., optimize=None)
    any         ... optimize="any": batch norms folded, squeezes before the expansion; runs everywhere
    machine     ... optimize="machine": the form for CPUs like this one and this batch size
    int8        quantize_onnx of "any", with gates in float or in 8 bits too; ranges from noise, so for its time alone

Each file's logits are compared with the network's in torch when it is written (relative 1e-4). All sides are then
timed in one process in shuffled rounds, with ONNX Runtime's own threads; medians with quartiles, and the ratios of SE
to plain in each form with 95 % intervals. Pin the process to as many cores: taskset -c 0,1.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from senet import create_model, get_net
from senet.bench.machine import describe_machine
from senet.bench.measure import Subject, measure
from senet.bench.result import Case
from senet.bench.subjects import QUIET, settle_norms_
from senet.config import to_dict
from senet.deploy.int8 import GATES, quantize_onnx
from senet.deploy.onnx import export_onnx, session
from senet.models.network import Network

FORMS = {"as it is": None, "any": "any", "machine": "machine"}


def network(name: str, size: int) -> Network:
    """A network as drawn, with batch norm's statistics measured on noise, so that activations keep their scale."""
    model = create_model(replace(get_net(name), image_size=size), fused=False)
    for block in model.modules():
        if hasattr(block, "epilogue"):
            nn.init.constant_(block.norm.weight, QUIET)  # type: ignore[union-attr]
    settle_norms_(model, torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0)))
    return model.eval()


def runner(path: Path, x: Tensor, threads: int) -> Any:
    run, inputs = session(path, threads), {"image": x.numpy()}
    return lambda: torch.as_tensor(run(None, inputs)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    libraries = {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    about = describe_machine(torch.device("cpu")) | libraries | {"threads": options.threads}
    cases: list[Case] = []
    models = {"plain": network("resnet50", options.size), "SE": network("se_resnet50", options.size)}
    with TemporaryDirectory() as folder:
        for batch in map(int, options.batches.split(",")):
            x = torch.randn(batch, 3, options.size, options.size, generator=torch.Generator().manual_seed(1))
            files: dict[str, Path] = {}
            for kind, model in models.items():
                for form, optimize in FORMS.items():
                    files[f"{kind} {form}"] = path = Path(folder) / f"{kind}-{form}-{batch}.onnx"
                    done = export_onnx(model, path, x, optimize=optimize)  # type: ignore[arg-type]
                    print(f"{path.name}: {done.bytes / 1e6:.1f} MB, logits {done.deviation:.1e} from torch's")
                for gates in GATES:
                    files[f"{kind} int8 {gates}"] = path = Path(folder) / f"{kind}-{gates}-{batch}.onnx"
                    quantize_onnx(files[f"{kind} any"], path, [x], gates=gates)
            order = sorted(files, key=lambda name: name != "plain any")
            subjects = [Subject(name=n, make=partial(runner, files[n], x, options.threads)) for n in order]
            pairs = [(f"SE {form}", f"plain {form}") for form in (*FORMS, *(f"int8 {gates}" for gates in GATES))]
            case = measure(subjects, ratios=pairs, repeats=options.repeats, labels={"batch": batch}, progress=True)
            cases.append(case)
            print(f"\nbatch {batch}, {options.size} pixels, {options.threads} threads, n={options.repeats}")
            print(f"load {case.load_before:.1f} before, {case.load_after:.1f} after")
            for row in case.rows:
                print(f"  {row.name:20s} {row.median_ms:8.1f} ms ({row.low_ms:.1f}, {row.high_ms:.1f})")
            for r in (case.ratio(*pair) for pair in pairs):
                print(f"  {r.top} / {r.bottom}: {r.value:.3f} ({r.low:.3f}, {r.high:.3f})")
    print("\n" + json.dumps(about, indent=2))
    if options.json:
        options.json.write_text(json.dumps({"about": about, "cases": [to_dict(case) for case in cases]}, indent=2))


if __name__ == "__main__":
    main()
