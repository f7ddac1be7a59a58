"""`doctor(model)`: find faults of attention units that no loss curve shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

from senet.diagnosis.discovery import Candidate, Watch, ends, find
from senet.diagnosis.judge import Judge, saturated, some
from senet.diagnosis.placement import misplaced
from senet.diagnosis.report import Report, UnitRow
from senet.errors import ConfigError
from senet.models.detector import DetectorNet
from senet.models.net import Net
from senet.models.network import FeatureExtractor, Network
from senet.outputs import describe, tensors
from senet.tracing import Example, untouched
from senet.units.unit import Unit


def doctor(model: nn.Module, batch: Example | None = None) -> Report:
    """Find faults in the attention units of a network, by one forward and one backward pass in its current mode.

    The network may be one of ours, with or without `insert_`, or any other. Kinds of fault:

    - `never-run`: the unit is registered but no forward pass calls it.
    - `not-applied`: it runs but its gates multiply nothing.
    - `wrong-width`: the number of gates is not the number of channels, or the forward pass fails in the unit.
    - `mixes-images`: in evaluation mode, another image of the batch changes the gates of this one.
    - `wrong-branch`: it gates the shortcut of a residual block, the sum, or the input of both branch and shortcut,
      and its configuration does not ask for that.
    - `half-overflow`: half precision cannot hold its feature map or the sum of a channel over space, or a gate is not
      finite.
    - `undone`: a norm behind it divides each channel of an image by its own size, as instance norm does, so that the
      gates change nothing.
    - `saturated`: 99 % of the gates are within 1e-3 of an end of their range.
    - `constant`: the gates are equal for all images although the squeezed values are not.
    - `no-gradient`: a classification loss gives one of its parameters no gradient.

    A unit in its initial state is a note, not a fault: an inserted one that is still the identity, one next to a norm
    with scale zero, and one whose hidden layer is zero for all images if the network is untrained (with one hidden
    channel that happens to half of the units) or the images are noise. So is one that a detector's table keeps frozen.
    Buffers, gradients, modes and random state are
    unchanged afterwards.

    Args:
        model: The network; of a detector of ours, its trunk is checked.
        batch: Images (N, C, H, W), N of 2 or more; a tuple or mapping of tensors for a network that takes several
            arguments. None: 4 images of noise, of the size the network was designed for.

    Returns:
        The faults, one row per unit, and notes; `print(report)` shows a table.

    Raises:
        ConfigError: For a batch of another shape, weights on the meta device, or a network that fails outside its
            units.

    >>> from senet import create_model
    >>> report = doctor(create_model("se_resnet20"), torch.randn(4, 3, 16, 16))
    >>> len(report.units), report.healthy
    (9, True)
    """
    model = getattr(model, "_orig_mod", model)
    net: Any = getattr(model, "net", None)
    frozen_to = 0
    if isinstance(net, DetectorNet):
        # The heads have no units, and take images as a list.
        model, frozen_to = model.backbone.trunk, net.freeze_at * net.freeze_units  # type: ignore[union-attr, assignment]
    like = next(
        (p for p in model.parameters() if p.is_floating_point()), torch.empty((), dtype=torch.float32, device="cpu")
    )
    if like.is_meta:
        raise ConfigError("model: its weights are on the meta device, and doctor runs the network; give it weights")
    is_noise = batch is None
    if batch is None:
        batch, images_in_words = _noise(model), " of noise"
    else:
        batch, images_in_words = _checked(batch), ""
    images = tree_map_only(Tensor, lambda t: t.to(like if t.is_floating_point() else like.device), batch)
    sizes = [" x ".join(map(str, t.shape[1:])) for t in tensors(images)]
    images_in_words = f"{len(tensors(images)[0])} images{images_in_words}, {' and '.join(sizes)}"
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    is_new = all(map(_is_untrained, norms))
    with _undisturbed(model, like.device):
        watch = Watch(model, find(model))
        if watch.candidates:
            watch.run(tree_map_only(Tensor, Tensor.clone, images))
            if not watch.stopped:
                watch.find_undone(images)
    is_frozen = not any(p.requires_grad for p in model.parameters())
    judge = Judge(watch, is_noise=is_noise, is_new=is_new, is_frozen=is_frozen, frozen_to=frozen_to)
    for s in watch.candidates:
        judge.look(s)
    if not watch.candidates:
        judge.note("no attention units found: a plain network, or units of an unknown kind")
    elif watch.stopped:
        judge.note(
            "gradients and later units were not checked, since the forward pass failed there; fix it, then check again"
        )
    else:
        try:
            judge.findings += misplaced(model, watch.candidates, tree_map_only(Tensor, lambda t: t[:1], images))
        except ConfigError as error:
            judge.note(f"positions in residual blocks were not checked: {error}")
    for name, count, missing in _missing(model):
        judge.note(f"{name}{count - len(missing)} of the {count} units of its table exist; missing: {some(missing)}")
    if watch.candidates and is_frozen:
        judge.note("gradients were not checked: every parameter is frozen")
    if watch.candidates and is_new and norms and not model.training:
        judge.note("batch norm has no statistics yet; before training, check in training mode: model.train()")
    rows = tuple(_row(s) for s in watch.candidates)
    return Report(units=rows, findings=tuple(judge.findings), notes=judge.lines(), batch=images_in_words)


def _is_untrained(norm: _BatchNorm) -> bool:
    """Whether the statistics are the initial ones. A counter of 0 is not enough: converted weights lack the counter."""
    if norm.running_mean is None or norm.running_var is None:
        return True
    return not norm.num_batches_tracked and not norm.running_mean.any() and bool((norm.running_var == 1).all())


def _checked(batch: Example) -> Example:
    expected = "expected: float images (N, C, H, W), N of 2 or more, or a tuple or mapping of tensors with equal N"
    found = tensors(batch)
    is_image = bool(found) and found[0].dim() > 2 and found[0].is_floating_point()
    if not is_image or any(t.dim() < 1 or len(t) < 2 or len(t) != len(found[0]) for t in found):
        raise ConfigError(f"batch: {describe(batch)}; {expected}")
    if not all(t.isfinite().all() for t in found):
        raise ConfigError("batch: has values that are infinite or NaN; expected: finite values")
    return batch


def _noise(model: nn.Module) -> Tensor:
    """Draw four images of the size that a network of ours or timm's declares, else of 224 x 224 pixels."""
    net, timm_config = getattr(model, "net", None), getattr(model, "pretrained_cfg", None)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if isinstance(net, Net):
        shape = (net.in_channels, net.image_size, net.image_size)
    elif isinstance(timm_config, dict) and "input_size" in timm_config:
        shape = timm_config["input_size"]
    elif first is not None:
        shape = (first.in_channels, 224, 224)
    else:
        raise ConfigError("batch: cannot be made up, since the network has no convolution; expected: images")
    return torch.randn(4, *shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32, device="cpu")


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Enable gradients, work on copies of the buffers and from a fixed random state; restore everything afterwards."""
    # Leaving inference mode also enables gradients.
    with torch.inference_mode(False), untouched(model):
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.manual_seed_all(0)
        yield


def _missing(model: nn.Module) -> Iterator[tuple[str, int, list[str]]]:
    """Yield networks of ours that lack units of their tables: prefix, number of units in the table, missing names."""
    for name, net in model.named_modules():
        if not isinstance(net, (Network, FeatureExtractor)) or net.net.se is None:
            continue
        with torch.device("meta"):
            twin = net.net.build() if isinstance(net, Network) else FeatureExtractor(net.net, net.stages)
        in_table = [path for path, m in twin.named_modules() if isinstance(m, Unit)]
        there = dict(net.named_modules())
        missing = [path for path in in_table if path not in there or next(there[path].parameters(), None) is None]
        if missing:
            yield f"{name}: " * bool(name), len(in_table), missing


def _row(s: Candidate) -> UnitRow:
    gate = s.gate if s.gate is not None and bool(s.gate.isfinite().all()) else None
    two = len(s.layers) == 2
    return UnitRow(
        name=s.name,
        kind=s.kind + " inserted" * s.inserted,
        channels=s.channels or (ends(s.layers[0])[0] if two else None),
        hidden=ends(s.layers[0])[1] if two else None,
        runs=s.runs,
        mean_gate=None if gate is None else float(gate.mean()),
        over_images=None if gate is None else float(gate.std(0, correction=0).mean()),
        over_channels=None if gate is None else float(gate.std(1, correction=0).mean()),
        saturated=None if gate is None else saturated(s, gate),
        alive=s.alive,
    )
