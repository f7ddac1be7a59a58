"""Weights of any known library into one of our networks: all of them, and the function they stand for there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.config import to_dict
from senet.errors import CheckpointError, ConfigError, unknown
from senet.initialization import draw_
from senet.kernels.fuse import fuse_like_
from senet.models.net import Net
from senet.models.network import Network
from senet.models.registry import nets
from senet.units.config import SEConfig
from senet.weights import (
    cadene,
    caffe,
    files,
    mmpretrain,
    moskomule,
    native,
    pytorchcv,
    segmentation,
    timm,
    torchvision,
)
from senet.weights.convention import Convention, NoNames, Shape, check_intact, no_names, shapes_of
from senet.weights.files import Source
from senet.weights.load_report import Ledger

CONVENTIONS: tuple[Convention, ...] = (
    native.CONVENTION,
    cadene.RESIDUAL,
    cadene.BN_INCEPTION,
    cadene.INCEPTION_RESNET,
    segmentation.CONVENTION,
    moskomule.RESIDUAL,
    moskomule.CIFAR_RESIDUAL,
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
"""Every convention; of several that see the same names, and so stand for the same function, the first one counts."""


COUNTER = "num_batches_tracked"


def load_weights_(
    model: Network,
    source: str | Path | Mapping[str, Tensor] | Source,
    *,
    convention: str | None = None,
    allow: Sequence[str] = (),
    quiet: bool = False,
) -> Ledger:
    """Load weights into a network, in place, and make it the function that they stand for where they come from.

    The names say whose they are, and settle with the shapes what of the network's table must change: pooling, strides,
    biases, rounding. The parameters stay the same objects, so an optimiser keeps them, but for those whose shape
    changes or that are new, which a note counts; hooks on the blocks do not stay. `model.preprocessing` becomes what
    the weights want.

    model: a `Network` itself, without what DataParallel or torch.compile put around it.
    source: a file or folder (`files.read`), what was read of it, or tensors by name, wrapped or not.
    convention: whose names they are, for example "timm"; None: found out.
    allow: names, or what they begin with, or patterns such as "features.*.se", under which the model may keep its own
        values; of a tensor that has no place here, its own name counts.
    quiet: do not print the ledger.

    Raises CheckpointError where tensors are missing, left over or of another shape, or where no table of ours is the
    source's function; the model is then as it was. ConfigError for an unknown convention, an `allow` that names
    nothing, and a model that is no `Network`, or no longer what its table says.
    """
    check_intact(model)
    if next(model.parameters()).is_meta:
        raise ConfigError("model: is on the meta device, which holds no weights")
    allow = [allow] if isinstance(allow, str) else allow
    found = _found(source)
    shapes = {name: tuple(t.shape) for name, t in found.tensors.items()}
    theirs = detect(shapes, convention, name=found.name)
    net, notes = _settled(model.net, found, theirs, shapes)
    match = _match(net, found, theirs)
    _check_whole(net, match, found, theirs, allow)
    ledger = _ledger(model, net, found, theirs, match, notes)
    if made := become_(model, net):
        note = f"{made} parameters are new objects: make the optimiser after loading"
        ledger = replace(ledger, notes=(*ledger.notes, note))
    state = model.state_dict()
    with torch.no_grad():
        for name, value in match.values.items():
            state[name].copy_(value)
    model.preprocessing = ledger.preprocessing
    if not quiet:
        print(ledger)
    return ledger


def identify(tensors: Mapping[str, Tensor] | Source) -> tuple[str, str]:
    """The named network that tensors are the weights of, whatever its classes, and whose names they have.

    Raises CheckpointError where it is none, with the nearest ones.

    >>> from senet import create_model
    >>> identify(create_model("se_resnet20", num_classes=100).state_dict())
    ('se_resnet20', 'senet')
    """
    found = _found(tensors)
    shapes = {name: tuple(t.shape) for name, t in found.tensors.items()}
    theirs = detect(shapes)
    differ: dict[str, int] = {}
    for name, net in nets().items():
        try:
            settled, _ = theirs.settle(sized(net, theirs, shapes), shapes)
            differ[name] = _distance(settled, theirs, shapes)
        except CheckpointError:
            continue
        if not differ[name]:
            return name, theirs.name
    near = ", ".join(f"{name} ({differ[name]} tensors differ)" for name in sorted(differ, key=differ.__getitem__)[:3])
    raise CheckpointError(
        f"{found.name}: no network here has these {len(shapes)} tensors of {theirs.name}; the nearest: {near or 'none'}"
    )


def detect(shapes: Mapping[str, Shape], convention: str | None = None, *, name: str = "a mapping") -> Convention:
    """The convention of these names; of those called `convention` where that is given.

    Raises CheckpointError where there is none, ConfigError for an unknown `convention`.
    """
    names = list(dict.fromkeys(c.name for c in CONVENTIONS))
    if convention is not None and convention not in names:
        raise unknown("convention", convention, names, kind="conventions")
    seen = [c for c in CONVENTIONS if c.sees(shapes)]
    wanted = [c for c in seen if convention in (None, c.name)]
    if wanted:
        return wanted[0]
    if seen:
        raise CheckpointError(f"{name}: these are the names of {seen[0].name}, not of {convention}")
    raise CheckpointError(f"{name}: names of no known convention ({first(shapes)}); known: {', '.join(names)}")


@torch.no_grad()
def become_(model: Network, net: Net) -> int:
    """Make a network that of another table, in place; parameters of the same name and shape stay the same objects.

    The others are drawn anew, with seed 0, on the device and in the type of the first; they are frozen where those are
    that they replace, or the weight beside them is. Returns how many they are.
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
                like_it = old.get(f"{path}.{leaf}", old.get(f"{path}.weight"))
                p.requires_grad_(like_it is None or like_it.requires_grad)
        for leaf, tensor in kept.items():
            setattr(module, leaf, tensor)
    for name, child in new.named_children():
        setattr(model, name, child)
    model.net, model.num_features = net, new.num_features
    return made


def changes(before: Net, after: Net) -> tuple[str, ...]:
    """What differs between two tables of one family: "pool: ceil -> pad", "se.bias: True -> False"."""
    return tuple(_changes(to_dict(before), to_dict(after), ""))


def _changes(before: Any, after: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before | after:
            yield from _changes(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif before != after:
        yield f"{path}: {before} -> {after}"


def _found(source: str | Path | Mapping[str, Tensor] | Source) -> Source:
    if isinstance(source, Source):
        return source
    return files.read(source) if isinstance(source, (str, Path)) else files.unwrap(source)


def _settled(net: Net, found: Source, theirs: Convention, shapes: Mapping[str, Shape]) -> tuple[Net, tuple[str, ...]]:
    if found.net is not None and theirs is native.CONVENTION:
        return native.as_written(net, found.net), ()
    net, notes = theirs.settle(net, shapes)
    if theirs.by_file is None:
        return net, notes
    net, more = theirs.by_file(net, found.hint)
    return net, (*notes, *more)


@dataclass
class _Match:
    """Our names and a source's tensors, name by name.

    values: our name -> what is to be written, in our shape.  theirs: our name -> theirs, of the tensors written.
    wrong: our name -> their name, of the tensors of another shape.
    unnamed: ours, of units that they have no names for.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    theirs: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    permuted: list[str] = field(default_factory=list)
    counters: int = 0


def _match(net: Net, found: Source, theirs: Convention) -> _Match:
    match = _Match()
    for ours, shape in shapes_of(net).items():
        try:
            key = theirs.key(ours, net)
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
                match.values[ours] = torch.zeros((), dtype=torch.int64)
                match.counters += 1
            else:
                match.missing.append(ours)
            continue
        value = theirs.permute(ours, tensor, False) if theirs.permute else tensor
        if without_ones(value.shape) != without_ones(shape):
            match.wrong[ours] = key
            continue
        if value.is_meta or value.is_complex() or not (value.is_floating_point() or key.endswith(COUNTER)):
            what = "on the meta device, which holds no numbers" if value.is_meta else f"of {value.dtype}, not of floats"
            raise CheckpointError(f"{found.name}: {key!r} is {what}")
        match.values[ours], match.theirs[ours] = value.reshape(shape), key
        if value is not tensor:
            match.permuted.append(ours)
        elif value.shape != shape:
            match.reshaped.append(ours)
    used = set(match.theirs.values())
    match.unused = [name for name in found.tensors if name not in used and name not in match.wrong.values()]
    return match


def without_ones(shape: Shape) -> Shape:
    """A shape without its trailing ones: a 1x1 convolution (h, C, 1, 1) has the numbers of a linear layer (h, C)."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def _check_whole(net: Net, match: _Match, found: Source, theirs: Convention, allow: Sequence[str]) -> None:
    ours_of = {key: name for name, key in match.wrong.items()}
    if match.unused:
        ours_of |= {key: name for key, name in _elsewhere(net, theirs) if key in match.unused}
    for pattern in allow:
        known = ("classifier", *shapes_of(net), *match.unused, *ours_of.values())
        if not any(_under(name, [pattern]) for name in known):
            raise ConfigError(f"allow: {pattern!r} names no tensor of the network or of {found.name}")
    if any(not _under(name, allow) for name in match.unnamed):
        keep = "to keep the model's, name them in `allow`: 'features.*.se'"
        raise CheckpointError(f"{found.name}: {no_names(theirs.name, net)}; {keep}")
    missing = [name for name in match.missing if not _under(name, allow)]
    wrong = [name for name in match.wrong if not _under(name, allow)]
    unused = [name for name in match.unused if not _under(ours_of.get(name, name), allow)]
    faults = (
        f"{len(missing)} of {len(shapes_of(net))} tensors missing ({first(missing)})" * bool(missing),
        f"{len(unused)} of {len(found.tensors)} unused ({first(unused)})" * bool(unused),
        f"{len(wrong)} of another shape ({first(_wrong(name, net, match, found) for name in wrong)})" * bool(wrong),
    )
    if any(faults):
        raise CheckpointError(
            f"{found.name}: not the weights of this network, by the names of {theirs.name}: "
            f"{', '.join(filter(None, faults))}. Nothing was loaded; what may stay as it is must be named in `allow`"
        )


def _wrong(name: str, net: Net, match: _Match, found: Source) -> str:
    there, here = tuple(found.tensors[match.wrong[name]].shape), shapes_of(net)[name]
    return f"{name} is {there} there and {here} here"


def _elsewhere(net: Net, theirs: Convention) -> Iterator[tuple[str, str]]:
    """(theirs, ours) of what the network does not have and its like has: a classifier, units."""
    wider = replace(net, num_classes=net.num_classes or 1, se=net.se or SEConfig())
    for name in shapes_of(wider).keys() - shapes_of(net).keys():
        yield theirs.key(name, wider), name


def _under(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of these, or begins with one of them and a dot."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)


def _ledger(
    model: Network, net: Net, found: Source, theirs: Convention, match: _Match, notes: tuple[str, ...]
) -> Ledger:
    here = {name: t.dtype for name, t in model.state_dict().items()}
    cast = {t.dtype for name, t in match.values.items() if t.dtype != here.get(name, t.dtype)}
    odd = [match.theirs.get(name, name) for name, t in match.values.items() if not t.isfinite().all()]
    wanted = found.preprocessing or theirs.preprocessing
    images = wanted if wanted and len(wanted.mean) == net.in_channels else None
    untold = () if found.net or not theirs.untold else theirs.untold(net, found.hint)
    more = (
        *["images have other channels there: how these are wanted is not known"] * (images != wanted),
        *[theirs.images_vary] * bool(theirs.images_vary and images and not found.preprocessing),
        *(f"{_wrong(name, net, match, found)}; kept as it was" for name in match.wrong),
        *[f"{match.counters} num_batches_tracked are absent, and 0 here"] * bool(match.counters),
        *[f"cast from {first(map(str, cast))}"] * bool(cast),
        *[f"{len(odd)} tensors hold NaN or infinity ({first(odd)})"] * bool(odd),
    )
    return Ledger(
        source=found.name,
        convention=theirs.name,
        loaded=tuple(ours for ours, key in match.theirs.items() if ours == key),
        renamed=tuple((key, ours) for ours, key in match.theirs.items() if ours != key),
        reshaped=tuple(match.reshaped),
        permuted=tuple(match.permuted),
        missing=(*match.missing, *match.wrong),
        unused=(*match.unused, *match.wrong.values()),
        settled=changes(model.net, net),
        notes=(*found.notes, *notes, *more),
        untold=untold,
        preprocessing=images,
    )


def sized(net: Net, theirs: Convention, shapes: Mapping[str, Shape]) -> Net:
    """The table with the classes and input channels of these shapes."""
    outputs = shapes.get(theirs.key("classifier.weight", net), (0,))[0]
    stem = next(name for name, shape in shapes_of(net).items() if len(shape) == 4)
    inputs = shapes.get(theirs.key(stem, net), (0, net.in_channels))[1]
    return replace(net, num_classes=outputs, in_channels=inputs)


def _distance(net: Net, theirs: Convention, shapes: Mapping[str, Shape]) -> int:
    """How many tensors differ in name or shape."""
    want = {theirs.key(name, net): without_ones(shape) for name, shape in shapes_of(net).items()}
    have = {name: without_ones(shape) for name, shape in shapes.items()}
    differ = {name for name in want.keys() | have.keys() if want.get(name) != have.get(name)}
    return sum(not name.endswith(COUNTER) for name in differ)


def first(names: Iterable[str], most: int = 3) -> str:
    """The first few, and that there are more."""
    few = list(islice(names, most + 1))
    return ", ".join(few[:most]) + ", ..." * (len(few) > most)
