"""What became of every tensor when weights were loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from senet.models.net import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The account of one loading; `str` is a handful of lines, `table` says it tensor by tensor.

    source: the file, or "a mapping".  convention: whose names it has.
    loaded: tensors that have the same name here and there.  renamed: (theirs, ours) of the others.
    reshaped, permuted: our names of those among them that also got or lost trailing ones in their shape, or whose
        channels or classes were put into another order.
    missing: our names that the source does not fill; they kept the model's values.
    unused: names in the source that have no place here.
    settled: what of the network's table was changed to the source's function, "pool: ceil -> pad".
    notes: what the source cannot say, and what was done about it.
    untold: fields of the network's table that the source cannot say, and that stayed the model's.
    preprocessing: how these weights want their images; None: not known.
    """

    source: str
    convention: str
    loaded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    reshaped: tuple[str, ...] = ()
    permuted: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    def __str__(self) -> str:
        """The counts, what was settled, the notes."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.source}: weights under the names of {self.convention}"
        yield (
            f"  {len(self.loaded) + len(self.renamed)} tensors loaded: {len(self.renamed)} renamed, "
            f"{len(self.reshaped)} reshaped, {len(self.permuted)} permuted; "
            f"{len(self.missing)} missing, {len(self.unused)} unused"
        )
        if self.settled:
            yield f"  settled: {', '.join(self.settled)}"
        if self.preprocessing:
            p = self.preprocessing
            mean, std = (" ".join(f"{v:.3f}" for v in values) for values in (p.mean, p.std))
            yield f"  images: {p.resize} -> {p.image_size} pixels, {p.interpolation}, mean {mean}, std {std}"
        for note in self.notes:
            yield f"  note: {note}"

    def table(self) -> str:
        """A line per tensor: what became of it, their name, our name."""
        marks = dict.fromkeys(self.reshaped, "reshaped") | dict.fromkeys(self.permuted, "permuted")
        rows = [(name, name) for name in self.loaded] + list(self.renamed)
        lines = [(marks.get(ours, "loaded" if theirs == ours else "renamed"), theirs, ours) for theirs, ours in rows]
        lines += [("missing", "-", ours) for ours in self.missing] + [("unused", theirs, "-") for theirs in self.unused]
        wide = max((len(theirs) for _, theirs, _ in lines), default=0)
        return "\n".join(f"{what:8}  {theirs:{wide}}  {ours}".rstrip() for what, theirs, ours in lines)
