"""Write the comparison with timm and torchvision into README.md; every cell is computed. With --check, only compare.

python docs/make_comparison.py [--check]
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import senet

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- comparison -->", "<!-- /comparison -->"

PAPER = (
    *(f"se_resnet{depth}" for depth in (50, 101, 152)),
    *(f"se_resnext{depth}_32x4d" for depth in (50, 101)),
    *("se_vgg16_bn", "se_bn_inception", "se_inception_resnet_v2", "se_mobilenet", "se_shufflenet_g3", "senet154"),
    *("se_preresnet110", "se_preresnet164", "se_wrn_16_8", "se_shake_shake_26_2x96d", "se_shake_even_29_2x4x64d"),
)
"""The SE networks of Tables 2 to 5 and 8."""


def plain_names(names: list[str]) -> set[str]:
    """Names without the marks that libraries put differently."""
    return {name.removeprefix("legacy_").replace("_", "") for name in names}


def of_paper(names: list[str]) -> str:
    """How many of the paper's SE networks are among the names."""
    return f"{len(plain_names(list(PAPER)) & plain_names(names))} of {len(PAPER)}"


def gmacs(model: nn.Module) -> str:
    """Multiply-adds of convolutions and linear layers for an image of 224 pixels."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    return f"{counter.get_total_flops() / 2e9:.2f} G"


def shared(plain: nn.Module, se: nn.Module) -> str:
    """How many convolution and linear weights of a network its SE twin starts with, bit for bit."""
    twin = dict(se.named_parameters())
    weights = {name: p for name, p in plain.named_parameters() if p.dim() > 1}
    return f"{sum(torch.equal(p, twin[name]) for name, p in weights.items())} of {len(weights)}"


def seeded(name: str) -> nn.Module:
    """A network of timm drawn from seed 0."""
    torch.manual_seed(0)
    return timm.create_model(name)


def change(before: Tensor, after: Tensor) -> str:
    """What an insertion does to the outputs."""
    return "unchanged" if torch.equal(before, after) else "changed"


def inserted() -> tuple[str, str]:
    """What SE in a ResNet-18 that has weights does to its outputs, by `senet.insert_` and by timm's `block_args`."""
    net = seeded("resnet18").eval()
    with torch.no_grad():
        # As in a trained network: timm starts the last norm of each branch at zero, which would hide any unit.
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)
        x = torch.randn(1, 3, 64, 64)
        before = net(x)
        other = timm.create_model("resnet18", block_args={"attn_layer": "se"}).eval()
        missing, unexpected = other.load_state_dict(net.state_dict(), strict=False)
        assert missing
        assert not unexpected
        theirs = change(before, other(x))
        assert senet.insert_(net, senet.SEConfig(), "residual")
        return change(before, net(x)), theirs


def over(count: int) -> str:
    """A count that grows, rounded down to a hundred."""
    return f"over {count // 100 * 100:,}"


def commands(package: str) -> str:
    """What a package's installation adds to the command line."""
    names = [e.name for e in metadata.distribution(package).entry_points if e.group == "console_scripts"]
    return ", ".join(f"`{name}`" for name in names) or "none"


def rows() -> list[tuple[str, str, str, str]]:
    """What is compared, and the cells of senet, timm and torchvision."""
    theirs = [m for m in torchvision.models.list_models() if "/" not in m]
    released = sum(len(torchvision.models.get_model_weights(m)) for m in torchvision.models.list_models())
    ours_changes, timm_changes = inserted()
    with torch.device("meta"):
        timms = timm.create_model("seresnet50")
    return [
        ("SE networks of the paper", of_paper(senet.list_models()), of_paper(timm.list_models()), of_paper(theirs)),
        (
            "multiply-adds of SE-ResNet-50, 3.87 G in the paper",
            gmacs(senet.create_model("se_resnet50", device="meta")),
            gmacs(timms),
            "—",
        ),
        (
            "initial weights that ResNet-18 and SE-ResNet-18 share, one seed",
            shared(*(senet.create_model(name, seed=0) for name in ("resnet18", "se_resnet18"))),
            shared(seeded("resnet18"), seeded("seresnet18")),
            "—",
        ),
        ("outputs when SE is put into a ResNet-18 that has weights", ours_changes, timm_changes, "—"),
        ("command line", commands("senet"), commands("timm"), commands("torchvision")),
        ("released weights of its own", "none; reads theirs", over(len(timm.list_pretrained())), over(released)),
    ]


def table() -> str:
    """The rows as Markdown."""
    lines = ["| | senet | timm | torchvision |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows())])


def main() -> int:
    """Return 1 where --check finds another table."""
    text = README.read_text()
    new = re.sub(f"(?s){BEGIN}.*{END}", f"{BEGIN}\n\n{table()}\n\n{END}", text)
    if "--check" in sys.argv:
        print(f"{README.name}: {'up to date' if new == text else 'stale; run python docs/make_comparison.py'}")
        return int(new != text)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
