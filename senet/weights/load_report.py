"""What became of every tensor when weights were loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from senet.models.net import Preprocessing


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every tensor of a file. `str` gives a summary, `table` a line per tensor.

    Attributes:
        source: The file, or "a mapping".
        convention: The library whose names the file has.
        loaded: Tensors of the same name in the file and in the network.
        renamed: (name in the file, our name) of the others.
        reshaped: Our names of tensors whose shape gained or lost trailing ones.
        permuted: Our names of tensors whose channels or classes were reordered.
        missing: Our names that the file does not have; these tensors kept their values.
        unused: Names in the file that the network does not have.
        changed: Fields of the network's table that were set to the file's function: "pool: ceil -> pad".
        notes: What the file does not tell, and what was assumed.
        unknown_fields: Fields of the network's table that the file does not tell; they kept their values.
        preprocessing: How the weights expect their images; None if that is not known.
    """

    source: str
    convention: str
    loaded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    reshaped: tuple[str, ...] = ()
    permuted: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unknown_fields: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    def __str__(self) -> str:
        """Counts, changed fields, preprocessing and notes."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.source}: weights in the names of {self.convention}"
        yield (
            f"  {len(self.loaded) + len(self.renamed)} tensors loaded: {len(self.renamed)} renamed, "
            f"{len(self.reshaped)} reshaped, {len(self.permuted)} permuted; "
            f"{len(self.missing)} new, {len(self.unused)} unused"
        )
        for what, names in (("new, not in the file", self.missing), ("unused, not in the network", self.unused)):
            if names:
                yield f"  {what}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
        if self.changed:
            yield f"  changed: {', '.join(self.changed)}"
        if self.preprocessing:
            p = self.preprocessing
            mean, std = (" ".join(f"{v:.3f}" for v in values) for values in (p.mean, p.std))
            yield f"  expects images: {p.resize} -> {p.image_size} pixels, {p.interpolation}, mean {mean}, std {std}"
        for note in self.notes:
            yield f"  note: {note}"

    def table(self) -> str:
        """A line per tensor: what became of it, its name in the file, our name."""
        marks = dict.fromkeys(self.reshaped, "reshaped") | dict.fromkeys(self.permuted, "permuted")
        rows = [(name, name) for name in self.loaded] + list(self.renamed)
        lines = [(marks.get(ours, "loaded" if key == ours else "renamed"), key, ours) for key, ours in rows]
        lines += [("missing", "-", ours) for ours in self.missing] + [("unused", key, "-") for key in self.unused]
        width = max((len(key) for _, key, _ in lines), default=0)
        return "\n".join(f"{what:8}  {key:{width}}  {ours}".rstrip() for what, key, ours in lines)
