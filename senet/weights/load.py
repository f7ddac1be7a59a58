"""Load weights of any known library into one of our networks: all tensors, and the function they stand for there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.config import to_dict
from senet.errors import CheckpointError, ConfigError, unknown
from senet.initialization import draw_
from senet.kernels.fuse import fuse_like_
from senet.models.net import Net
from senet.models.network import Network
from senet.units.config import SEConfig
from senet.weights import (
    cadene,
    caffe,
    cifar,
    files,
    mmpretrain,
    moskomule,
    native,
    pytorchcv,
    segmentation,
    timm,
    torchvision,
)
from senet.weights.by_name import COUNTER, first, is_named, load_by_name_
from senet.weights.convention import Convention, NoNames, Shape, check_intact, check_unwrapped, no_names, shapes_of
from senet.weights.files import Source
from senet.weights.load_report import LoadReport
from senet.weights.mappings import OF_TRAINING

CONVENTIONS: tuple[Convention, ...] = (
    native.CONVENTION,
    cadene.RESIDUAL,
    cadene.BN_INCEPTION,
    cadene.INCEPTION_RESNET,
    segmentation.CONVENTION,
    moskomule.RESIDUAL,
    moskomule.CIFAR_RESIDUAL,
    cifar.AKAMASTER,
    cifar.CHENYAOFO,
    torchvision.RESIDUAL,
    torchvision.VGG,
    timm.RESIDUAL,
    timm.VGG,
    timm.INCEPTION_RESNET,
    mmpretrain.CONVENTION,
    pytorchcv.RESIDUAL,
    pytorchcv.CIFAR_RESIDUAL,
    caffe.CONVENTION,
)
"""Every convention. If several match, they stand for the same function, and the first one is used."""


def load_weights_(
    model: nn.Module,
    source: str | Path | Mapping[str, Any] | nn.Module | Source,
    *,
    convention: str | None = None,
    allow: Sequence[str] = (),
    quiet: bool = False,
) -> LoadReport:
    """Load weights into a network, in place; one of ours becomes the function that they stand for.

    A network of another library, or of yours, takes weights under its own names. For a `Network` the names tell which
    library the weights come from, and names and shapes which fields of its table must change: pooling, strides, biases,
    rounding. Parameters stay the same objects, so an optimiser keeps them; those that are new or change shape are
    replaced, and a note counts them. Hooks on the blocks are lost. `model.preprocessing` is set to what the weights
    expect.

    Args:
        model: Any module, not wrapped by DataParallel or torch.compile.
        source: A file or folder (see `files.read`); tensors or arrays by name, wrapped or not; or a module.
        convention: For a `Network`, the library whose names these are, such as "timm"; None: found from the names.
        allow: Tensors that may be missing, unused or of another shape: names, prefixes of names, or patterns such as
            "features.*.se". A tensor without a place in the network goes by its own name. What a loss or an average
            keeps, and what lies outside the prefix of the network's names, needs no permission to be unused.
        quiet: Do not print the load report.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: If tensors are missing, unused or of another shape, or no table of ours has the function of the
            source; the model is then unchanged.
        ConfigError: For an unknown convention, an `allow` that names no tensor, anything but an unwrapped module, and a
            `Network` that no longer has the tensors of its table.
    """
    check_unwrapped(model)
    if any(p.is_meta for p in model.parameters()):
        raise ConfigError("model: is on the meta device, which holds no weights")
    allow = [allow] if isinstance(allow, str) else allow
    if not isinstance(model, Network):
        if convention is not None:
            raise ConfigError(f"convention: has no effect on a {type(model).__name__}, which takes its own names")
        report = load_by_name_(model, as_source(source, covers(model)), allow=allow)
        if report.preprocessing is not None:
            model.preprocessing = report.preprocessing  # type: ignore[assignment]
        if not quiet:
            print(report)
        return report
    check_intact(model)
    found = as_source(source)
    shapes = {name: tuple(t.shape) for name, t in found.tensors.items()}
    names = detect(shapes, convention, name=found.name)
    net, notes = _infer(model.net, found, names, shapes)
    match = _match(net, found, names)
    _check_complete(net, match, found, names, allow)
    report = _report(model, net, found, names, match, notes)
    if made := become_(model, net):
        note = f"{made} parameters are new objects: make the optimiser after loading"
        report = replace(report, notes=(*report.notes, note))
    state = model.state_dict()
    with torch.no_grad():
        for name, value in match.values.items():
            state[name].copy_(value)
    model.preprocessing = report.preprocessing
    if not quiet:
        print(report)
    return report


def as_source(
    source: str | Path | Mapping[str, Any] | nn.Module | Source,
    accepts: Callable[[Mapping[str, Shape]], bool] = lambda shapes: any(c.matches(shapes) for c in CONVENTIONS),
) -> Source:
    """Read a file, or take tensors by name or a module's, and remove the prefix before names that are accepted.

    By default those of a known convention are.
    """
    if isinstance(source, (str, Path)):
        source = files.read(source)
    elif isinstance(source, nn.Module):
        source = files.of_module(source)
    elif not isinstance(source, Source):
        source = files.unwrap(source)
    return files.peeled(source, accepts)


def covers(model: nn.Module) -> Callable[[Mapping[str, Shape]], bool]:
    """What says whether names are those of a module: more than half of its own are among them."""
    own = model.state_dict().keys()
    return lambda shapes: 2 * len(own & shapes.keys()) > len(own)


def detect(shapes: Mapping[str, Shape], convention: str | None = None, *, name: str = "a mapping") -> Convention:
    """Find the convention of these names; only among those called `convention` if that is given.

    Raises:
        CheckpointError: If no convention matches.
        ConfigError: For an unknown `convention`.
    """
    names = list(dict.fromkeys(c.name for c in CONVENTIONS))
    if convention is not None and convention not in names:
        raise unknown("convention", convention, names, kind="conventions")
    matching = [c for c in CONVENTIONS if c.matches(shapes)]
    wanted = [c for c in matching if convention in (None, c.name)]
    if wanted:
        return wanted[0]
    if matching:
        raise CheckpointError(f"{name}: these are the names of {matching[0].name}, not of {convention}")
    raise CheckpointError(f"{name}: names of no known convention ({first(shapes)}); known: {', '.join(names)}")


@torch.no_grad()
def become_(model: Network, net: Net) -> int:
    """Change a network into that of another table, in place.

    Parameters of the same name and shape stay the same objects. The others are drawn with seed 0, on the device and in
    the dtype of the first parameter, and frozen if the parameter that they replace, or the weight beside them, is.

    Returns:
        How many parameters are new objects.
    """
    if net == model.net:
        return 0
    with torch.device("meta"):
        new = net.build()
    fuse_like_(new, model)
    like = next(model.parameters())
    old: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    made = 0
    modes = {path: module.training for path, module in model.named_modules()}
    for path, module in new.named_modules():
        module.training = modes.get(path, model.training)
        own_tensors = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        kept = {leaf: old.get(f"{path}.{leaf}") for leaf in own_tensors}
        kept = {leaf: t for leaf, t in kept.items() if t is not None and t.shape == own_tensors[leaf].shape}
        if kept.keys() != own_tensors.keys():
            module.to_empty(device=like.device, recurse=False).to(like.dtype)
            draw_(module, 0, path)
        for leaf, p in module.named_parameters(recurse=False):
            if leaf not in kept:
                made += 1
                replaced = old.get(f"{path}.{leaf}", old.get(f"{path}.weight"))
                p.requires_grad_(replaced is None or replaced.requires_grad)
        for leaf, tensor in kept.items():
            setattr(module, leaf, tensor)
    for name, child in new.named_children():
        setattr(model, name, child)
    model.net, model.num_features = net, new.num_features
    return made


def changes(before: Net, after: Net) -> tuple[str, ...]:
    """The fields in which two tables of one family differ: "pool: ceil -> pad", "se.bias: True -> False"."""
    return tuple(_changes(to_dict(before), to_dict(after), ""))


def _changes(before: Any, after: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before | after:
            yield from _changes(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif before != after:
        yield f"{path}: {before} -> {after}"


def _infer(net: Net, found: Source, names: Convention, shapes: Mapping[str, Shape]) -> tuple[Net, tuple[str, ...]]:
    """The table of the source's function, and notes."""
    if found.header is not None and names is native.CONVENTION:
        return native.as_written(net, found.header.model), ()
    net, notes = names.infer(net, shapes)
    if names.infer_from_name is None:
        return net, notes
    net, more = names.infer_from_name(net, found.hint)
    return net, (*notes, *more)


@dataclass
class _Match:
    """Our names and a source's tensors, name by name.

    Attributes:
        values: Our name -> what is to be written, in our shape.
        keys: Our name -> the source's name, of the tensors written.
        wrong: Our name -> the source's name, of tensors of another shape.
        unnamed: Our names in units that the convention has no names for.
        missing: Our names without a tensor in the source.
        unused: The source's names without a place in the network.
        reshaped: Our names of tensors that gained or lost trailing ones.
        permuted: Our names of tensors that were reordered.
        counters: How many `num_batches_tracked` are missing, which is not an error.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    permuted: list[str] = field(default_factory=list)
    counters: int = 0


def _match(net: Net, found: Source, names: Convention) -> _Match:
    match = _Match()
    for ours, shape in shapes_of(net).items():
        try:
            key = names.key(ours, net)
        except NoNames:
            if ".se." not in ours:
                raise
            match.unnamed.append(ours)
            match.missing.append(ours)
            continue
        tensor = found.tensors.get(key)
        if tensor is None:
            norm, _, leaf = key.rpartition(".")
            if leaf == COUNTER and f"{norm}.running_mean" in found.tensors:
                match.values[ours] = torch.zeros((), dtype=torch.int64, device="cpu")
                match.counters += 1
            else:
                match.missing.append(ours)
            continue
        value = names.permute(ours, tensor, False) if names.permute else tensor
        if without_ones(value.shape) != without_ones(shape):
            match.wrong[ours] = key
            continue
        if value.is_meta or value.is_complex() or not (value.is_floating_point() or key.endswith(COUNTER)):
            what = "on the meta device, which holds no numbers" if value.is_meta else f"of {value.dtype}, not of floats"
            raise CheckpointError(f"{found.name}: {key!r} is {what}")
        match.values[ours], match.keys[ours] = value.reshape(shape), key
        if value is not tensor:
            match.permuted.append(ours)
        elif value.shape != shape:
            match.reshaped.append(ours)
    used = {*match.keys.values(), *match.wrong.values()}
    match.unused = [name for name in found.tensors if name not in used]
    return match


def without_ones(shape: Shape) -> Shape:
    """A shape without trailing ones: a 1x1 convolution (h, C, 1, 1) has the numbers of a linear layer (h, C)."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def _check_complete(net: Net, match: _Match, found: Source, names: Convention, allow: Sequence[str]) -> None:
    """Raise CheckpointError for tensors that do not fit and that `allow` does not name."""
    ours_of = {key: name for name, key in match.wrong.items()}
    if match.unused:
        ours_of |= {key: name for key, name in _optional_tensors(net, names) if key in match.unused}
    for pattern in allow:
        known = ("classifier", *shapes_of(net), *match.unused, *found.outside, *ours_of.values())
        if not any(is_named(name, [pattern]) for name in known):
            raise ConfigError(f"allow: {pattern!r} names no tensor of the network or of {found.name}")
    if any(not is_named(name, allow) for name in match.unnamed):
        hint = "to keep the units of the model, name them in `allow`: 'features.*.se'"
        raise CheckpointError(f"{found.name}: {no_names(names.name, net)}; {hint}")
    missing = [name for name in match.missing if not is_named(name, allow)]
    wrong = [name for name in match.wrong if not is_named(name, allow)]
    unused = [n for n in match.unused if not (OF_TRAINING.search(n) or is_named(ours_of.get(n, n), allow))]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(shapes_of(net))} tensors missing ({first(missing)})")
    if unused:
        faults.append(f"{len(unused)} of {len(found.tensors)} unused ({first(unused)})")
    if wrong:
        shapes = first(_both_shapes(name, net, match, found) for name in wrong)
        faults.append(f"{len(wrong)} of another shape ({shapes})")
    if faults:
        raise CheckpointError(
            f"{found.name}: not the weights of this network, by the names of {names.name}: {', '.join(faults)}. "
            "Nothing was loaded; name in `allow` what may keep its values"
        )


def _both_shapes(name: str, net: Net, match: _Match, found: Source) -> str:
    in_file, here = tuple(found.tensors[match.wrong[name]].shape), shapes_of(net)[name]
    return f"{name} is {in_file} in the source and {here} in the network"


def _optional_tensors(net: Net, names: Convention) -> Iterator[tuple[str, str]]:
    """(the source's name, our name) of the classifier's and units' tensors that the network lacks."""
    wider = replace(net, num_classes=net.num_classes or 1, se=net.se or SEConfig())
    for name in shapes_of(wider).keys() - shapes_of(net).keys():
        yield names.key(name, wider), name


def _report(
    model: Network, net: Net, found: Source, names: Convention, match: _Match, notes: tuple[str, ...]
) -> LoadReport:
    expected = found.preprocessing or names.preprocessing
    preprocessing = expected if expected and len(expected.mean) == net.in_channels else None
    here = {name: t.dtype for name, t in model.state_dict().items()}
    cast = {t.dtype for name, t in match.values.items() if t.dtype != here.get(name, t.dtype)}
    odd = [match.keys.get(name, name) for name, t in match.values.items() if not t.isfinite().all()]
    more = []
    if preprocessing != expected:
        more.append("the source's images have other channels: its preprocessing does not apply")
    if names.images_vary and preprocessing and not found.preprocessing:
        more.append(names.images_vary)
    more += [f"{_both_shapes(name, net, match, found)}; kept as it was" for name in match.wrong]
    if match.counters:
        more.append(f"{match.counters} num_batches_tracked are missing, set to 0")
    if cast:
        more.append(f"cast from {first(map(str, cast))}")
    if odd:
        more.append(f"{len(odd)} tensors hold NaN or infinity ({first(odd)})")
    return LoadReport(
        source=found.name,
        convention=names.name,
        loaded=tuple(ours for ours, key in match.keys.items() if ours == key),
        renamed=tuple((key, ours) for ours, key in match.keys.items() if ours != key),
        reshaped=tuple(match.reshaped),
        permuted=tuple(match.permuted),
        missing=(*match.missing, *match.wrong),
        unused=(*match.unused, *match.wrong.values(), *found.outside),
        changed=changes(model.net, net),
        notes=(*found.notes, *notes, *more),
        unknown_fields=names.unknown_fields(net, found.hint) if names.unknown_fields and not found.header else (),
        preprocessing=preprocessing,
    )
