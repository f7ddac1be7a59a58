"""What was measured of a network's gates, as values that can be kept, drawn and shown.

Shapes: U units, K classes, C channels of a unit, S of them sampled, T images named at either end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from senet.errors import DataError, unknown
from senet.files import write_atomically

FORMAT = 1

STAGE = re.compile(r"(?:^|\.)((?:layer|stage|s)\d+|(?:stages|blocks|features)\.\d+)\.")
BLOCK = re.compile(r"^(?:block|b)?(\d+)(?=\.|$)")


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitGates:
    """The gates of one unit over all images. A gate per position counts by its mean over space.

    name: of its module; with "#2" behind it at its second call in a pass.  stage: the part of the name that says which
        stage, or "".  kind: of a unit of ours, or the class of another.
    mean, deviation: (K, C) of each class, NaN for one without images; deviations divide by the number of images.
    overall_mean, overall_deviation: (C,) over all images.
    low, high: (C,) share of the gates below 0.05 and above 0.95.  near_one: (C,) share within 0.05 of 1.
    specificity: part of the variance that is between classes, averaged over channels; a channel that varies by
        rounding alone, with a deviation below 1e-6, counts 0.
    entropy: bits of a channel's histogram over images, averaged over channels.
    sampled: (S,) the channels that are drawn.
    openers, closers: (S, T) images with the largest and with the smallest gate, most extreme first; -1 for none.
    opener_values, closer_values: (S, T) those gates; NaN for none.
    ablation: top-1 error, percent, with the gates "off", "mean" or "shuffled" (`ablate`); empty where not measured.
    """

    name: str
    stage: str
    kind: str
    mean: np.ndarray
    deviation: np.ndarray
    overall_mean: np.ndarray
    overall_deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    near_one: np.ndarray
    specificity: float
    entropy: float
    sampled: np.ndarray
    openers: np.ndarray
    opener_values: np.ndarray
    closers: np.ndarray
    closer_values: np.ndarray
    ablation: dict[str, float] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """C."""
        return len(self.overall_mean)

    @property
    def lowest(self) -> np.ndarray:
        """(S) the least gate of each sampled channel over all images."""
        return self.closer_values[:, 0]

    @property
    def highest(self) -> np.ndarray:
        """(S) the greatest gate of each sampled channel over all images."""
        return self.opener_values[:, 0]

    @property
    def label(self) -> str:
        """As the paper calls it, "SE_2_3", where the name tells stage and block of a residual network; else the name.

        >>> label("features.stage2.block3.se"), label("layer4.0.se"), label("blocks.4.0.se")
        ('SE_2_3', 'SE_5_1', 'blocks.4.0.se')
        """
        return label(self.name)


ARRAYS = tuple(f.name for f in fields(UnitGates) if f.type == "np.ndarray")
VALUES = tuple(f.name for f in fields(UnitGates) if f.type != "np.ndarray")


def stage_of(name: str) -> str:
    """The part of a module's name that says which stage it is in, or "".

    >>> stage_of("features.stage2.block1.se"), stage_of("blocks.4.0.se"), stage_of("gate")
    ('stage2', 'blocks.4', '')
    """
    match = STAGE.search(name)
    return match[1] if match else ""


def label(name: str) -> str:
    """A unit's name in the paper's figures, from that of its module; see `UnitGates.label`."""
    stage = stage_of(name)
    block = BLOCK.match(name.partition(f"{stage}.")[2])
    kind = re.fullmatch(r"(layer|stage)(\d+)", stage)
    if not block or not kind:
        return name
    # torchvision and timm count stages from 1 and blocks from 0, the paper from 2 and from 1.
    ahead = kind[1] == "layer"
    return f"SE_{int(kind[2]) + ahead}_{int(block[1]) + ahead}" + "".join(name.partition("#")[1:])


@dataclass(frozen=True, eq=False, kw_only=True)
class Gates:
    """The gates of all units of a network over a data set.

    units: in the order in which they multiply.
    classes: names of all K classes.  chosen: numbers of those to draw.
    images: how many.  per_class: (K,) how many of each class.
    similarity: (U, U) linear CKA of the units' class means (arXiv:1905.00414); NaN for a unit whose gates are the same
        for all classes.
    top1_error: of the network on these images, percent; None where its outputs are no classes of these.
    ablation: top-1 error with the gates of all units replaced at once; empty where it was not measured.
    source: where the images come from.  model: what the network is called.
    """

    units: tuple[UnitGates, ...]
    classes: tuple[str, ...]
    chosen: tuple[int, ...]
    images: int
    per_class: np.ndarray
    similarity: np.ndarray
    top1_error: float | None = None
    ablation: dict[str, float] = field(default_factory=dict)
    source: str = ""
    model: str = ""

    def unit(self, name: str) -> UnitGates:
        """A unit by its name or label; ConfigError for none of that name."""
        for u in self.units:
            if name in (u.name, u.label):
                return u
        raise unknown("unit", name, [u.name for u in self.units], kind="units")

    @property
    def drawn(self) -> tuple[UnitGates, ...]:
        """What Figure 6 draws: the last unit of each stage, and the last three of the last stage."""
        last = {u.stage: u for u in self.units}
        end = [u for u in self.units if u.stage == self.units[-1].stage][-3:]
        return tuple(u for u in self.units if u is last[u.stage] or u in end)

    def save(self, path: str | Path) -> None:
        """Write an NPZ file; RunError where that cannot be done."""
        meta = {
            "format": FORMAT,
            **{
                f.name: getattr(self, f.name)
                for f in fields(self)
                if f.name not in ("units", "per_class", "similarity")
            },
            "units": [{name: getattr(u, name) for name in VALUES} for u in self.units],
        }
        arrays = {f"{i}.{name}": getattr(u, name) for i, u in enumerate(self.units) for name in ARRAYS}
        arrays |= {"per_class": self.per_class, "similarity": self.similarity, "senet": np.array(json.dumps(meta))}
        write_atomically(Path(path), lambda file: np.savez_compressed(file, **arrays))

    @classmethod
    def load(cls, path: str | Path) -> Gates:
        """Read what `save` wrote; DataError for a file that is absent, damaged or something else."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                meta = json.loads(str(arrays["senet"]))
                if meta.pop("format") > FORMAT:
                    raise DataError(f"{path}: gates written by a newer senet; this one reads format {FORMAT}")
                units = tuple(
                    UnitGates(**values, **{name: arrays[f"{i}.{name}"] for name in ARRAYS})
                    for i, values in enumerate(meta.pop("units"))
                )
                meta |= {name: tuple(meta[name]) for name in ("classes", "chosen")}
                return cls(units=units, per_class=arrays["per_class"], similarity=arrays["similarity"], **meta)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; senet analyze writes it") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            raise DataError(f"{path}: not a file of gates that senet analyze wrote: {error}") from error

    def page(
        self, thumbnail: Callable[[int], str | None] = lambda _: None, *, strip: int = 4, thumbnails: int = 1200
    ) -> dict[str, Any]:
        """Plain JSON values for a report: sampled channels, chosen classes and "all" alone, three decimals.

        thumbnail: a data URI of an image by its number, or None.  strip: images at either end of a channel.
        thumbnails: at most so many different ones, those of the drawn units first.

        A class without images has None for its means. Keys:

        - model, source, images, top1_error, ablation: as the fields.
        - lines: `[{"name", "images"}]`, "all" and then the chosen classes.
        - units: of each unit name, label, stage, kind, channels, specificity, entropy, ablation; drawn: whether
          Figure 6 shows it; gate, low, high, near_one: means over channels; sampled: (S) channel numbers; mean,
          deviation: (lines, S); openers, closers: (S, strip) of `[image, gate]`.
        - similarity: (U, U), None where there is none.
        - thumbnails: `{image number as text: data URI}`.
        """
        drawn = self.drawn
        wanted = dict.fromkeys(i for u in sorted(self.units, key=lambda u: u not in drawn) for i in _shown(u, strip))
        uris = {str(i): uri for i in list(wanted)[:thumbnails] if (uri := thumbnail(i)) is not None}
        return {
            "model": self.model,
            "source": self.source,
            "images": self.images,
            "top1_error": _plain(self.top1_error),
            "ablation": _plain(self.ablation),
            "lines": [
                {"name": "all", "images": self.images},
                *({"name": self.classes[k], "images": int(self.per_class[k])} for k in self.chosen),
            ],
            "units": [self._unit_page(u, u in drawn, strip) for u in self.units],
            "similarity": _plain(self.similarity),
            "thumbnails": uris,
        }

    def _unit_page(self, u: UnitGates, drawn: bool, strip: int) -> dict[str, Any]:
        rows, at = list(self.chosen), u.sampled
        return {
            **{name: getattr(u, name) for name in ("name", "label", "stage", "kind", "channels")},
            **{name: _plain(getattr(u, name)) for name in ("specificity", "entropy", "ablation")},
            "drawn": drawn,
            "gate": _plain(u.overall_mean.mean()),
            **{name: _plain(getattr(u, name).mean()) for name in ("low", "high", "near_one")},
            "sampled": at.tolist(),
            "mean": _plain(np.vstack([u.overall_mean[at], u.mean[rows][:, at]])),
            "deviation": _plain(np.vstack([u.overall_deviation[at], u.deviation[rows][:, at]])),
            "openers": _ends(u.openers, u.opener_values, strip),
            "closers": _ends(u.closers, u.closer_values, strip),
        }


def _shown(u: UnitGates, strip: int) -> Iterator[int]:
    """The images at the ends of a unit's channels."""
    for images in (u.openers, u.closers):
        yield from (i for i in images[:, :strip].ravel().tolist() if i >= 0)


def _ends(images: np.ndarray, values: np.ndarray, strip: int) -> list[list[list[Any]]]:
    return [
        [[i, _plain(v)] for i, v in zip(row[:strip], of[:strip], strict=True) if i >= 0]
        for row, of in zip(images.tolist(), values.tolist(), strict=True)
    ]


def _plain(value: Any) -> Any:
    """A value for JSON: three decimals, None for what is not a number."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if value is None or not np.isfinite(value) else round(float(value), 3)
