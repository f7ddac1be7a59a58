"""Find units that gate the wrong part of a residual block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from senet.diagnosis.discovery import Candidate
from senet.diagnosis.report import Finding
from senet.models.network import FeatureExtractor, Network
from senet.tracing import Example, Sum, Trace, trace
from senet.units.unit import Unit

LINEAR = ("add", "sub", "mul", "div", "clone", "_to_copy")
"""Elementwise operations that are linear."""


def misplaced(model: nn.Module, candidates: list[Candidate], image: Example) -> list[Finding]:
    """List units that gate a residual block's shortcut, sum or input although their configuration does not say so.

    Args:
        model: The network.
        candidates: Its units.
        image: One image (1, C, H, W), or what else the network takes.

    Raises:
        ConfigError: If the network does not run on the image in evaluation mode.
    """
    elsewhere = {u for m in model.modules() if _is_placed_elsewhere(m) for u in m.modules() if isinstance(u, Unit)}
    checked = [s for s in candidates if s.runs and (s.inserted or s.unit not in elsewhere)]
    # Replace units by operations without weights: only the block's own layers tell a branch from a shortcut.
    units = [(s.sites[0], _same) for s in checked if s.unit]
    layers = [(m, _weightless) for s in checked if not s.unit for m in s.layers]
    handles = [m.register_forward_hook(hook) for m, hook in units + layers]
    try:
        t = trace(model, image)
    finally:
        for handle in handles:
            handle.remove()
    names = {m: name for name, m in model.named_modules()}
    sums = [
        (s, t.ancestors(s.branch) | {s.branch}, t.ancestors(s.shortcut) | {s.shortcut})
        for s in t.sums
        if _has_activation(t, s)
    ]
    findings = []
    for s in checked:
        calls = t.calls.get(names[s.sites[0] if s.unit else s.layers[-1]], ())
        node = calls[0].output if calls else None
        if node is not None and (where := _place(t, names[s.sites[0]], node, sums)):
            message = f"it gates {where} of a residual block; move it to the end of the branch, before the sum"
            findings.append(Finding(kind="wrong-branch", unit=s.name, message=message))
    return findings


def _is_placed_elsewhere(m: nn.Module) -> bool:
    """Whether a unit or network of ours is configured with another placement than the standard one."""
    if isinstance(m, Unit):
        return getattr(getattr(m, "config", None), "placement", "standard") != "standard"
    # A table with placements of its own has the standard one as its default.
    if not isinstance(m, (Network, FeatureExtractor)):
        return False
    return getattr(m.net, "se_at", None) != getattr(type(m.net), "se_at", None)


def _same(_unit: nn.Module, args: tuple[Tensor, ...], _out: object) -> Tensor:
    return args[0].clone()


def _weightless(_layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return torch.zeros(out.shape, dtype=out.dtype, device=out.device) + args[0].sum()


def _has_activation(t: Trace, s: Sum) -> bool:
    """Whether the branch has an activation; without one the sum is part of a convolution, as in RepVGG."""
    nodes = [t.nodes[n] for n in t.branch_of(s)]
    return any(node.pointwise and node.op.rstrip("_") not in LINEAR for node in nodes)


def _place(t: Trace, unit: str, node: int, sums: list[tuple[Sum, frozenset[int], frozenset[int]]]) -> str | None:
    """Name what a unit gates of a residual block, None for the branch; `sums` come with the ancestors of both sides."""
    for _, branch, shortcut in sums:
        if (node in branch) != (node in shortcut):
            return None if node in branch else "the shortcut"
    # On the trunk: a unit inside a block that gets the block's own input feeds both branch and shortcut.
    after = next((s.module for s, branch, _ in sums if node in branch), "")
    given = [{n for call in t.calls.get(name, ())[:1] for n in call.inputs} for name in (unit, after)]
    if unit.startswith(f"{after}.") and set.intersection(*given):
        return "the input of both branch and shortcut"
    # Directly after a sum, or with a layer or a concatenation between?
    before = t.ancestors(node)
    latest = max((s.out for s, _, _ in sums if s.out in before), default=None)
    if latest is None:
        return None
    between = (t.nodes[n] for n in before if n > latest and latest in t.ancestors(n))
    return None if any(n.layer or n.op == "cat" for n in between) else "the sum"
