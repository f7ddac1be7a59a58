"""Statistics of a network's gates: typed values, their file and what a page shows of them.

Shapes: U units, K classes, C channels of a unit, S sampled channels, T images kept at either end of a channel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from senet.diagnosis.labels import label
from senet.errors import DataError, unknown
from senet.files import write_atomically
from senet.runs.gates import Ends, GateLine, GatesOnPage, Specific, UnitOnPage

FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitGates:
    """The gates of one unit over all images; gates per position are averaged over space first.

    Attributes:
        name: Name of its module, with "#2" appended for its second call in a pass.
        stage: The part of the name that identifies the stage, or "".
        kind: Kind of a unit of ours, or the class name of another one.
        mean: (K, C) mean per class, NaN for a class without images.
        deviation: (K, C) standard deviation per class, dividing by n, NaN for a class without images.
        overall_mean: (C,) mean over all images.
        overall_deviation: (C,) standard deviation over all images.
        low: (C,) share of the gates below 0.05.
        high: (C,) share above 0.95.
        near_one: (C,) share within 0.05 of 1.
        specificity: Share of the variance that is between classes, mean over channels. A channel with a deviation below
            1e-6, which is rounding, counts as 0.
        entropy: Entropy of a channel's histogram over images in bits, mean over channels.
        sampled: (S,) the channels that are drawn.
        openers: (S, T) images with the largest gates, largest first; -1 where there are fewer images.
        opener_values: (S, T) their gates; NaN where there are fewer images.
        closers: (S, T) images with the smallest gates, smallest first.
        closer_values: (S, T) their gates.
        ablation: Top-1 error in percent with the gates replaced, see `ablate`; empty if not measured.
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
        """(S,) smallest gate of each sampled channel over all images."""
        return self.closer_values[:, 0]

    @property
    def highest(self) -> np.ndarray:
        """(S,) largest gate of each sampled channel over all images."""
        return self.opener_values[:, 0]

    @property
    def label(self) -> str:
        """The paper's name, "SE_2_3", if the module's name has stage and block of a residual network; else that name.

        >>> label("features.stage2.block3.se"), label("layer4.0.se"), label("blocks.4.0.se")
        ('SE_2_3', 'SE_5_1', 'blocks.4.0.se')
        """
        return label(self.name)


ARRAYS = tuple(f.name for f in fields(UnitGates) if f.type == "np.ndarray")
VALUES = tuple(f.name for f in fields(UnitGates) if f.type != "np.ndarray")


@dataclass(frozen=True, eq=False, kw_only=True)
class Gates:
    """The gates of all units of a network over a data set.

    Attributes:
        units: The units in the order in which they run.
        classes: Names of all K classes.
        chosen: Indices of the classes to draw.
        images: Number of images.
        per_class: (K,) number of images of each class.
        similarity: (U, U) linear CKA of the units' class means (arXiv:1905.00414); NaN for a unit whose gates are equal
            for all classes.
        top1_error: Error of the network on these images in percent; None if its outputs are not these classes.
        ablation: Top-1 error with the gates of all units replaced at once; empty if not measured.
        source: Where the images come from.
        model: Name of the network.
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
        """Return a unit by its name or label; ConfigError if there is none."""
        for u in self.units:
            if name in (u.name, u.label):
                return u
        raise unknown("unit", name, [u.name for u in self.units], kind="units")

    @property
    def drawn(self) -> tuple[UnitGates, ...]:
        """The units of Figure 6: the last of each stage, and the last three of the last stage."""
        last = {u.stage: u for u in self.units}
        end = [u for u in self.units if u.stage == self.units[-1].stage][-3:]
        return tuple(u for u in self.units if u is last[u.stage] or u in end)

    def save(self, path: str | Path) -> None:
        """Write an NPZ file; RunError if that fails."""
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
        """Read what `save` wrote; DataError for a missing, damaged or different file."""
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
            raise DataError(f"{path}: no such file; create it with senet analyze") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            raise DataError(f"{path}: not a gates.npz of senet analyze: {error}") from error

    def page(
        self, thumbnail: Callable[[int], str | None] = lambda _: None, *, strip: int = 5, thumbnails: int = 1200
    ) -> GatesOnPage:
        """Return the part that a page shows: sampled channels, chosen classes and "all", with three decimals.

        Args:
            thumbnail: Index of an image -> data URI, or None.
            strip: Number of images at either end of a channel.
            thumbnails: Largest number of different images; those of the drawn units come first.
        """
        drawn, specific = self.drawn, self.specific(strip)
        first = () if specific is None else (i for i, _ in specific.openers + specific.closers)
        rest = (i for u in sorted(self.units, key=lambda u: u not in drawn) for i in _shown(u, strip))
        wanted = dict.fromkeys([*first, *rest])
        uris = {str(i): uri for i in list(wanted)[:thumbnails] if (uri := thumbnail(i)) is not None}
        return GatesOnPage(
            model=self.model,
            source=self.source,
            images=self.images,
            top1_error=_plain(self.top1_error),
            ablation=_plain(self.ablation),
            lines=(
                GateLine(name="all", images=self.images),
                *(GateLine(name=self.classes[k], images=int(self.per_class[k])) for k in self.chosen),
            ),
            units=tuple(self._unit_on_page(u, u in drawn, strip) for u in self.units),
            similarity=_plain(self.similarity),
            thumbnails=uris,
            specific=specific,
        )

    def specific(self, strip: int) -> Specific | None:
        """The sampled channel whose gate differs most between classes: by the spread of its class means.

        Not by the share of the variance that is between classes, which is high for a gate that hardly moves.
        """
        here = np.flatnonzero(self.per_class)
        spreads = [(np.ptp(u.mean[here][:, u.sampled], axis=0), u) for u in self.units]
        spread, u = max(spreads, key=lambda pair: pair[0].max(initial=0))
        if not spread.max(initial=0) > 0.01:
            return None
        s = int(spread.argmax())
        means = u.mean[here, u.sampled[s]]
        share = self.per_class[here] / self.per_class.sum()
        between = float((share * (means - u.overall_mean[u.sampled[s]]) ** 2).sum())
        order = np.argsort(-means, kind="stable")
        return Specific(
            unit=u.label,
            channel=int(u.sampled[s]),
            specificity=_plain(between / float(u.overall_deviation[u.sampled[s]]) ** 2),
            by_class=tuple((self.classes[here[k]], _plain(means[k])) for k in order),
            openers=_ends(u.openers, u.opener_values, strip)[s],
            closers=_ends(u.closers, u.closer_values, strip)[s],
        )

    def _unit_on_page(self, u: UnitGates, drawn: bool, strip: int) -> UnitOnPage:
        rows, at = list(self.chosen), u.sampled
        return UnitOnPage(
            name=u.name,
            label=u.label,
            stage=u.stage,
            kind=u.kind,
            channels=u.channels,
            drawn=drawn,
            gate=_plain(u.overall_mean.mean()),
            low=_plain(u.low.mean()),
            high=_plain(u.high.mean()),
            near_one=_plain(u.near_one.mean()),
            specificity=_plain(u.specificity),
            entropy=_plain(u.entropy),
            ablation=_plain(u.ablation),
            sampled=tuple(at.tolist()),
            mean=_plain(np.vstack([u.overall_mean[at], u.mean[rows][:, at]])),
            deviation=_plain(np.vstack([u.overall_deviation[at], u.deviation[rows][:, at]])),
            openers=_ends(u.openers, u.opener_values, strip),
            closers=_ends(u.closers, u.closer_values, strip),
        )


def _shown(u: UnitGates, strip: int) -> Iterator[int]:
    """Yield the images at the ends of a unit's channels."""
    for images in (u.openers, u.closers):
        yield from (i for i in images[:, :strip].ravel().tolist() if i >= 0)


def _ends(images: np.ndarray, values: np.ndarray, strip: int) -> Ends:
    return tuple(
        tuple((i, _plain(v)) for i, v in zip(row[:strip], of[:strip], strict=True) if i >= 0)
        for row, of in zip(images.tolist(), values.tolist(), strict=True)
    )


def _plain(value: Any) -> Any:
    """Round to three decimals; arrays become tuples, NaN becomes None."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, np.ndarray):
        return tuple(map(_plain, value))
    return None if value is None or not np.isfinite(value) else round(float(value), 3)
