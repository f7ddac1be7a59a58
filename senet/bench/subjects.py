"""The sides that `senet bench` times: our networks, plain and with units, and those of timm and torchvision.

One set of weights for all: drawn by us, batch norm's statistics measured on noise, handed to the others under their
names. So each side's answer must be that of our network as it is created.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from senet.models.net import Net, ResidualNet
from senet.models.other import OtherNet
from senet.models.registry import get_net
from senet.units.config import SEConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from senet.bench.measure import Answer, Subject
    from senet.models.network import Network

OTHERS = {
    "se_resnet18": {"timm": ("seresnet18", "resnet18"), "torchvision": ("", "resnet18")},
    "se_resnet34": {"timm": ("seresnet34", "resnet34"), "torchvision": ("", "resnet34")},
    "se_resnet50": {"timm": ("seresnet50", "resnet50"), "torchvision": ("", "resnet50")},
    "se_resnet101": {"timm": ("seresnet101", "resnet101"), "torchvision": ("", "resnet101")},
    "se_resnet152": {"timm": ("seresnet152", "resnet152"), "torchvision": ("", "resnet152")},
    "se_resnext50_32x4d": {
        "timm": ("seresnext50_32x4d", "resnext50_32x4d"),
        "torchvision": ("", "resnext50_32x4d"),
    },
    "se_resnext101_32x4d": {"timm": ("seresnext101_32x4d", "resnext101_32x4d"), "torchvision": ("", "")},
}
"""Our network -> what it and its plain twin are called in other libraries; "": they have none."""

ENGINES = ("onnxruntime", "openvino")
"""What else runs our network, as `torch.onnx` exports it, in float32 on a CPU."""

KINDS = ("SE", "plain")
TREATMENTS = {
    "inference": {
        "eager": ("eager", "optimized", "optimized kernels"),
        "compiled": ("optimized compiled", "optimized kernels compiled"),
    },
    "training": {"eager": ("eager", "fused"), "compiled": ("compiled", "fused compiled")},
}
OTHERS_TREATMENTS = {
    "inference": {"eager": ("eager", "channels-last"), "compiled": ("compiled",)},
    "training": {"eager": ("eager",), "compiled": ("compiled",)},
}
"""What is done to a network, by the mode that it belongs to: ours, and those of others."""

TOLERANCES = {
    "inference": {"fp32": (1e-5,), "bf16": (5e-2,), "fp16": (1e-2,)},
    "training": {"fp32": (1e-5, 2e-2), "bf16": (1e-2, 0.5)},
}
"""Of the relative L2 distance, of logits; in training of the loss and of the gradient of the first convolution.

The last is loose, since a rounding that moves a value past zero opens or closes a ReLU in every layer on the way back.
"""

QUIET = 0.1
"""The scale of the last batch norm of each residual branch: at 1, as drawn, rounding grows from block to block."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One case. Its fields are the command's options.

    Attributes:
        what: "inference" or "training".
        model: The network's name, or the checkpoint that has it.
        table: The network of a checkpoint; None: that of this name.
    """

    what: str
    model: str
    batch: int
    size: int
    device: torch.device
    precision: str
    modes: tuple[str, ...]
    against: tuple[str, ...]
    function: str
    table: Net | None = None

    @property
    def net(self) -> Net:
        """The network, with its units."""
        return self.table or get_net(self.model)

    @property
    def own(self) -> str:
        """Whose the network is: "senet", "timm", "torchvision", or "file"."""
        return (self.net.library or "file") if isinstance(self.net, OtherNet) else "senet"

    @property
    def kinds(self) -> tuple[str, ...]:
        """With units and without; of a network of others into which none are inserted, the network alone."""
        return ("network",) if self.net.se is None else KINDS

    @property
    def dtype(self) -> torch.dtype:
        """The type of the layers' inputs."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


class Side(NamedTuple):
    """A library, whether with units, and what is done to the network."""

    library: str
    kind: str
    treatment: str

    @property
    def name(self) -> str:
        """As tables have it: "timm SE compiled"."""
        return " ".join(self)


def sides(plan: Plan) -> Iterator[Side]:
    """Ours first; our eager ones always, since the others are checked against them."""
    for kind in reversed(plan.kinds):
        for treatment in treatments(plan, plan.own):
            yield Side(plan.own, kind, treatment)
    for library in plan.against:
        if library in ENGINES:
            for kind in reversed(plan.kinds):
                yield Side(library, kind, "exported")
            continue
        for kind in reversed(KINDS):
            if OTHERS[plan.model][library][KINDS.index(kind)]:
                for treatment in treatments(plan, library):
                    yield Side(library, kind, treatment)


def treatments(plan: Plan, library: str) -> tuple[str, ...]:
    """What is done to a library's networks, in the modes asked for; fused or with kernels where there are kernels."""
    table = (TREATMENTS if library == plan.own else OTHERS_TREATMENTS)[plan.what]
    found = [t for mode in plan.modes for t in table[mode] if _has_kernels(plan, t)]
    return tuple(dict.fromkeys(["eager", *found] if library == plan.own else found))


def _has_kernels(plan: Plan, treatment: str) -> bool:
    from senet.kernels import dispatch

    if "kernels" in treatment:
        return plan.device.type == "cuda"
    is_ours = plan.own == "senet"
    return "fused" not in treatment or (is_ours and dispatch.block_epilogue(plan.device, plan.dtype) in ("triton", "c"))


def ratios(plan: Plan) -> list[tuple[str, str]]:
    """SE over plain in each treatment; ours as fast as it goes over the others, and over torchvision's plain one."""
    there = list(sides(plan))
    pairs = [(s, s._replace(kind="plain")) for s in there if s.kind == "SE"]
    best = [s for s in there if s.library == plan.own and s.kind != "plain" and s.treatment != "eager"]
    rivals = [s for s in there if (s.library, s.kind) in (("timm", "SE"), ("torchvision", "plain"))]
    rivals += [s for s in there if s.library in ENGINES and s.kind != "plain"]
    rivals = [s for s in rivals if s.library != plan.own]
    rivals += [s for s in there if s == Side(plan.own, "plain", "compiled")]
    pairs += [(ours, other) for ours in best for other in rivals]
    return [(top.name, bottom.name) for top, bottom in pairs]


def net_of(plan: Plan, kind: str) -> Net:
    """Our table; with --function same as timm and torchvision build it, where they do."""
    net = plan.net
    if plan.function == "same" and plan.model in OTHERS:
        assert isinstance(net, ResidualNet)
        assert isinstance(net.se, SEConfig)
        net = replace(net, pool="pad", se=replace(net.se, round_to=8))
        if net.stages[0].block == "bottleneck":
            net = replace(net, stride_on="3x3")
    return replace(net, image_size=plan.size, se=None if kind == "plain" else net.se)


def subjects(plan: Plan) -> list[Subject]:
    """The sides of a case, ready to be measured; nothing is built yet."""
    import torch
    from torch import nn

    from senet.bench.measure import Subject

    @cache
    def reference(kind: str) -> Network:
        from senet.create import create_model

        model = create_model(net_of(plan, kind), fused=False)
        for block in model.modules():
            if hasattr(block, "epilogue"):
                nn.init.constant_(block.norm.weight, QUIET)  # type: ignore[union-attr]
        settle_norms_(model, _images(plan, 4, plan.net.in_channels))
        return model

    def make(side: Side) -> Callable[[], Answer]:
        images = _images(plan, plan.batch, plan.net.in_channels)
        if side.library in ENGINES:
            return exported(side.library, reference(side.kind), images)
        model = copy.deepcopy(reference(side.kind)) if side.library == plan.own else other(plan, side, reference)
        return (inference if plan.what == "inference" else training)(plan, side.treatment, model, images)

    def exact(kind: str) -> Tensor:
        model = copy.deepcopy(reference(kind)).eval().to(plan.device, torch.float64)
        with torch.inference_mode():
            return model(_images(plan, plan.batch, plan.net.in_channels).to(plan.device, torch.float64))

    is_same = plan.function == "same"
    counted = {kind: tuple(layers(plan, net_of(plan, kind))) for kind in plan.kinds}
    found = []
    for side in sides(plan):
        own = side.library in (plan.own, *ENGINES) or is_same
        first = Side(plan.own if own else side.library, side.kind, "eager")
        # Logits in float32; the others have room enough.
        is_judge = side.library == plan.own and side == first and (plan.what, plan.precision) == ("inference", "fp32")
        found.append(
            Subject(
                name=side.name,
                make=partial(make, side),
                like=None if side == first or (not own and "eager" not in plan.modes) else first.name,
                tolerance=TOLERANCES[plan.what][plan.precision],
                exact=partial(exact, side.kind) if is_judge else None,
                layers=counted[side.kind] if own else (),
            )
        )
    return found


def other(plan: Plan, side: Side, reference: Callable[[str], Network]) -> nn.Module:
    """Another library's network, with our weights where it is the same function."""
    import torch

    from senet.weights.export import state_as

    name = OTHERS[plan.model][side.library][KINDS.index(side.kind)]
    # Their weights are drawn from the global state, which is not ours to move.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if side.library == "timm":
            import timm

            model = timm.create_model(name)
        else:
            import torchvision

            model = torchvision.models.get_model(name, weights=None, zero_init_residual=True)
    if plan.function == "same":
        model.load_state_dict(state_as(reference(side.kind), side.library))
    else:
        settle_norms_(model, _images(plan, 4, 3))
    return model


def exported(engine: str, model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """The call of a network in an engine: exported as it is, for this batch size alone, with torch's threads."""
    from senet.deploy.engines import run_in
    from senet.deploy.graph import capture
    from senet.deploy.onnx_graph import to_onnx

    g = capture(model, images)
    # An engine plans better for a known shape.
    g.any_batch = False
    run = run_in(engine, to_onnx(g, images, ["image"]))  # type: ignore[arg-type]
    return lambda: run(images)[0]


def inference(plan: Plan, treatment: str, model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """The call that answers with logits; "eager" as people run it, the others in channels-last."""
    import torch

    layout = torch.contiguous_format if treatment == "eager" else torch.channels_last
    model = model.eval().to(plan.device, plan.dtype, memory_format=layout)  # type: ignore[call-overload]
    images = images.to(plan.device, plan.dtype, memory_format=layout)
    is_compiled = "compiled" in treatment
    if treatment.startswith("optimized"):
        from senet.deploy.optimize import optimize

        model = optimize(model, images, compile=is_compiled, gpu_kernels="kernels" in treatment)
    elif is_compiled:
        from torch._inductor import config

        model = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        with config.patch(freezing=True), torch.no_grad():
            model(images)
    # Freezing is for `no_grad`, and inference mode would compile anew.
    quiet = torch.no_grad if is_compiled else torch.inference_mode

    def run() -> Tensor:
        with quiet():
            return model(images)

    return run


def training(plan: Plan, treatment: str, model: nn.Module, images: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """One step of SGD on cross entropy, channels-last; answers with the loss and the first convolution's gradient."""
    import torch
    import torch.nn.functional as F

    model = model.train().to(plan.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(plan.device, memory_format=torch.channels_last)
    targets = torch.arange(len(images), device=plan.device) % min(10, plan.net.num_classes)
    if treatment.startswith("fused"):
        from senet.kernels import fuse_

        fuse_(model)
    forward = torch.compile(model, dynamic=False) if "compiled" in treatment else model
    sgd = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    first = next(model.parameters())
    is_mixed = plan.precision == "bf16"

    def run() -> tuple[Tensor, ...]:
        sgd.zero_grad()
        with torch.autocast(plan.device.type, torch.bfloat16) if is_mixed else nullcontext():
            loss = F.cross_entropy(forward(images), targets)
        loss.backward()
        sgd.step()
        assert first.grad is not None
        return loss.detach(), first.grad

    return run


def settle_norms_(model: nn.Module, images: Tensor) -> None:
    """Give each batch norm the statistics of some noise, so that a deep network as drawn neither grows nor dies out."""
    import torch
    from torch import nn

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def layers(plan: Plan, net: Net) -> Iterator[tuple[float, float]]:
    """Bytes and operations of each convolution and linear layer, the least that must be done layer by layer.

    Forward, each reads its input and weights and writes its output, once, and everything else is done on the way. In
    training the two gradients of a layer cost as much again each; the first layer has no gradient for its input.
    """
    import torch
    from torch import nn

    from senet.create import create_model

    model = create_model(net, device="meta").eval()
    found: list[tuple[float, float]] = []
    width = plan.dtype.itemsize

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        passes = 1 if plan.what == "inference" else 3 if found else 2
        elements = inputs[0].numel() + output.numel() + weight.numel()
        products = output.numel() * weight.numel() / weight.shape[0]
        found.append((passes * width * elements, passes * 2 * products))

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.empty(plan.batch, net.in_channels, plan.size, plan.size, device="meta"))
    return iter(found)


def _images(plan: Plan, batch: int, channels: int) -> Tensor:
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(batch, channels, plan.size, plan.size, generator=generator, dtype=torch.float32, device="cpu")
