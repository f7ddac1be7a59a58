"""List a folder of images: its parts, its classes, its files, and what is not read.

Nothing is left out in silence: each file in the tree is either listed or counted, by what it is and where.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from senet.errors import DataError

if TYPE_CHECKING:
    import numpy as np

PartName = Literal["train", "val", "test", "all"]
"""A part of a data set; "all" is a folder that is not split."""

PARTS: Mapping[str, PartName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Name of a folder in lower case -> the part that it holds."""

EXPECTED = "expected: train/ and val/ or test/ with one folder per class each, or one folder per class"

# Formats of Pillow that run other programs, need Windows, or only have a header reader.
_REFUSED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
_HEIC = (".heic", ".heif", ".hif")
_VECTOR = (".ai", ".emf", ".eps", ".pdf", ".ps", ".svg", ".wmf")
_SYSTEM = (
    *("$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db", "icon\r", "lost+found"),
    *("system volume information", "thumbs.db"),
)
_AGAIN = "links to folders that are read already"
# Files that are read for the digest of a folder.
_READ = 100
# Kinds in the line about what is not read.
_MOST = 8

Unread = Counter[tuple[str, str]]
"""(what it is, the folder that it is in) -> number of files, or of folders that were not entered."""


@dataclass(frozen=True)
class Listing:
    """The images of one part.

    Attributes:
        folder: The folder of the class folders; of shards perhaps a URL.
        classes: Names of the classes, sorted; of all parts those of the training part.
        files: Paths of the images, by class, then by name.
        targets: The class of each.
        empty: Class folders without an image.
    """

    folder: Path | str
    classes: tuple[str, ...]
    files: Sequence[str]
    targets: Sequence[int] | np.ndarray
    empty: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What a folder of images holds.

    Attributes:
        folder: Where the parts or the classes are: the folder that was given, or the only one in it; or a URL.
        parts: "all" alone, or any of "train", "val" and "test".
        unread: What is not read.
        notes: What a user should know, a line each.
        stored_digest: The digest, where it is known without reading the images.
    """

    folder: Path | str
    parts: Mapping[PartName, Listing]
    unread: Unread = field(default_factory=Counter)
    notes: tuple[str, ...] = ()
    stored_digest: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return next(iter(self.parts.values())).classes


def digest(layout: Layout) -> str:
    """What a folder's training images are recognised by, wherever the folder is: "train:" or "all:" and a hash.

    The hash is of all their names and classes, and of what is in up to 100 of the files, evenly spread. "" for a folder
    without training images.
    """
    if layout.stored_digest:
        return layout.stored_digest
    part = "all" if "all" in layout.parts else "train"
    listing = layout.parts.get(part)
    if listing is None:
        return ""
    rows = sorted(
        (listing.classes[k], os.path.basename(file), file)
        for k, file in zip(listing.targets, listing.files, strict=True)
    )
    hashed = blake2b(str(len(rows)).encode(), digest_size=16)
    for number, (label, name, file) in enumerate(rows):
        hashed.update(os.fsencode(f"\0{label}\0{name}\0"))
        if number % -(-len(rows) // _READ) == 0:
            # What cannot be read is reported where the images are read.
            with suppress(OSError):
                hashed.update(Path(file).read_bytes())
    return f"{part}:{hashed.hexdigest()}"


@cache
def formats() -> dict[str, str]:
    """The raster images that Pillow opens here: ending in lower case -> format. HEIC needs the extra `heic`."""
    from PIL import Image

    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    # JPEG's reader opens MPO, which has no reader of its own.
    readers = {*Image.OPEN, "MPO"} - {*_REFUSED}
    return {ending: kind for ending, kind in sorted(Image.registered_extensions().items()) if kind in readers}


def describe(unread: Mapping[tuple[str, str], int]) -> str:
    """What is not read, in a few words; "" for nothing.

    >>> describe({(".txt", "cat"): 2, (".txt", "dog"): 1, ("no ending", "cat"): 1})
    'not read: .txt (3), no ending (1, in cat/)'
    """
    counts: Counter[str] = Counter()
    places: dict[str, set[str]] = {}
    for (what, place), count in unread.items():
        counts[what] += count
        places.setdefault(what, set()).add(place)
    kinds = []
    for what, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST]:
        place = next(iter(places[what])) if len(places[what]) == 1 else ""
        where = f", in {place}/" if place else ""
        kinds.append(f"{what} ({count:,}{where}{_advice(what)})")
    if rest := counts.total() - sum(n for _, n in counts.most_common(_MOST)):
        kinds.append(f"{len(counts) - _MOST} other kinds ({rest:,})")
    return f"not read: {', '.join(kinds)}" if kinds else ""


def no_images(unread: Mapping[tuple[str, str], int]) -> str:
    """What was found in place of images, and which endings are images."""
    line = describe(unread)
    return f"{line + '; ' if line else ''}expected: files ending in .jpg, .png or another of Pillow's {len(formats())}"


def _advice(what: str) -> str:
    if what in _HEIC:
        return "; pip install 'senet[heic]' reads them"
    return "; drawings, convert them to PNG" if what in _VECTOR else ""


def printable(path: str | Path) -> str:
    r"""A path as text that can be printed and written: bytes that are not UTF-8, and line breaks, as escapes.

    >>> printable("a\udcb9\n.png")
    'a\\xb9\\n.png'
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    breaks = ("Cc", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in breaks else c for c in text)


def find_layout(folder: Path) -> Layout:
    """Find the parts and classes of a folder of images, without reading an image.

    Names of parts are `PARTS`, in any case. A class is a folder, with all images below it at any depth. A folder that
    holds one folder only, which holds the rest, is entered.

    Raises:
        DataError: There is no such folder, or it cannot be read as parts and classes.
    """
    if printable(folder) != str(folder):
        raise DataError(f"{printable(folder)}: the path is not printable UTF-8 text; rename the folder")
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: {'is a file' if os.path.exists(folder) else 'no such folder'}; {EXPECTED}")
    unread: Unread = Counter()
    notes: list[str] = []
    top = _enter(folder, "", unread, notes)
    named: list[tuple[PartName, Path]] = [(part, path) for path in top.folders if (part := _part(path))]
    parts: dict[PartName, Listing] = {}
    if _is_split(named, top.folders):
        found: dict[PartName, Path] = {}
        for part, path in named:
            if part in found:
                raise DataError(
                    f"{top.path}: has {printable(found[part].name)}/ and {printable(path.name)}/, two names for one "
                    f"part; expected: one of them"
                )
            found[part] = path
        if len({_identity(path) for path in found.values()}) < len(found):
            notes.append(f"{top.path}: two of its parts are links to one folder")
        others = [path for path in top.folders if path not in found.values()]
        for path in others:
            files, more = list_images(path)
            unread.update({(what, _joined(path.name, place)): n for (what, place), n in more.items()})
            if files and len(found) == 1 and "train" in found:
                raise DataError(
                    f"{top.path}: has {printable(found['train'].name)}/ with class folders, and images in "
                    f"{printable(path.name)}/, which is not the name of a part; expected: {', '.join(PARTS)}"
                )
            if files:
                unread["images beside the parts", printable(path.name)] += len(files)
        order: tuple[PartName, ...] = ("train", "val", "test")
        for part in order:
            if part in found and (listing := _list_part(part, found[part], parts.get("train"), unread, notes)):
                parts[part] = listing
    elif not top.folders:
        held = f"holds {top.images:,} images and " if top.images else ""
        line = describe(unread)
        raise DataError(f"{top.path}: {held}no class folders{f' ({line})' if line else ''}; {EXPECTED}")
    else:
        parts["all"] = _list_classes(top, top.path.relative_to(folder).as_posix(), unread, notes)
    if not parts:
        raise DataError(f"{top.path}: no images in class folders; {EXPECTED}")
    first = next(iter(parts.values()))
    if first.empty:
        notes.append(f"{first.folder}: has no image of {len(first.empty)} of its classes ({_some(first.empty)})")
    return Layout(top.path, parts, unread, tuple(notes))


def list_images(folder: Path) -> tuple[list[str], Unread]:
    """List the images of a folder at any depth: their paths, by folder and name, and what is not read.

    A folder that links lead to twice is read once.

    Raises:
        DataError: A folder cannot be listed.
    """
    files: list[str] = []
    unread: Unread = Counter()
    # A link upwards would bring in the images of other classes.
    above = {*folder.absolute().parents, *folder.resolve().parents}
    seen = {_identity(path) for path in (folder, *above)}
    waiting = [folder]
    while waiting:
        found = _scan(waiting.pop())
        place = printable(found.path.relative_to(folder)) if found.path != folder else ""
        unread.update({(what, place): n for what, n in found.unread.items()})
        files += found.files
        below = []
        for path in found.folders:
            if (identity := _identity(path)) in seen:
                unread[_AGAIN, place] += 1
            else:
                seen.add(identity)
                below.append(path)
        waiting += reversed(below)
    return files, unread


@dataclass(frozen=True)
class _Folder:
    """The entries of one folder: folders, image files, both sorted, and the counts of what is neither."""

    path: Path
    folders: list[Path]
    files: list[str]
    unread: Counter[str]

    @property
    def images(self) -> int:
        return len(self.files)


def _scan(folder: Path) -> _Folder:
    endings = formats()
    folders, files = [], []
    unread: Counter[str] = Counter()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                ending = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
                    unread["hidden or system"] += 1
                elif _is(entry, "is_dir"):
                    if entry.is_symlink() and _leads_up(entry.path):
                        unread[_AGAIN] += 1
                    else:
                        folders.append(entry.name)
                # A link to nowhere stays an image, which `on_bad_image` is for.
                elif not (_is(entry, "is_file") or (entry.is_symlink() and not os.path.exists(entry.path))):
                    unread["pipes, sockets and devices"] += 1
                elif ending in endings:
                    files.append(entry.name)
                else:
                    unread[printable(ending) or "no ending"] += 1
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot be listed ({error.strerror})") from error
    return _Folder(
        folder, [folder / f for f in sorted(folders)], [os.path.join(folder, f) for f in sorted(files)], unread
    )


def _leads_up(link: str) -> bool:
    """Whether a link leads to a folder that it lies in."""
    target, here = Path(os.path.realpath(link)), os.path.dirname(os.path.abspath(link))
    return any(target in (path, *path.parents) for path in (Path(here), Path(os.path.realpath(here))))


def _is(entry: os.DirEntry[str], kind: Literal["is_dir", "is_file"]) -> bool:
    try:
        return getattr(entry, kind)()
    except OSError:
        # A link to itself.
        return False


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot be listed ({error.strerror})") from error
    return found.st_dev, found.st_ino


def _joined(*places: str) -> str:
    return "/".join(printable(place) for place in places if place not in ("", "."))


def _enter(folder: Path, place: str, unread: Unread, notes: list[str], known: Iterable[str] = ()) -> _Folder:
    """Scan a folder, or the only one in it that holds the rest. Counts what lies beside the folders."""
    chain = [_scan(folder)]
    seen = {_identity(folder)}
    while len(chain[-1].folders) == 1 and not chain[-1].files:
        only = chain[-1].folders[0]
        if _part(only) or _key(only.name) in map(_key, known) or _identity(only) in seen:
            break
        seen.add(_identity(only))
        chain.append(_scan(only))
    last = chain[-1]
    if last.files or not (len(last.folders) > 1 or any(map(_part, last.folders))):
        # It ends in the images of one class.
        chain = chain[:1]
    for found in chain:
        here = _joined(place, found.path.relative_to(folder).as_posix())
        unread.update({(what, here): n for what, n in found.unread.items()})
        if found.files:
            unread["images outside class folders", here] += found.images
    if len(chain) > 1:
        inner = printable(chain[-1].path.relative_to(folder))
        notes.append(f"{folder} holds one folder, {inner}/, which is read in its place")
    return chain[-1]


def _part(folder: Path) -> PartName | None:
    return PARTS.get(folder.name.strip().lower())


def _is_split(named: Sequence[tuple[PartName, Path]], folders: Sequence[Path]) -> bool:
    """Whether folders are parts and not classes, of which one may be called "train"."""
    has_classes = {part for part, path in named if _scan(path).folders}
    if len(named) == len(folders):
        return len(named) > 1 or bool(has_classes)
    return "train" in has_classes


def _list_part(part: PartName, folder: Path, train: Listing | None, unread: Unread, notes: list[str]) -> Listing | None:
    """List the class folders of a part; None for a test part without labels."""
    top = _enter(folder, folder.name, unread, notes, train.classes if train else ())
    if not top.folders:
        if part == "test":
            notes.append(f"{printable(top.path)}: no class folders, so its {top.images:,} images are not read")
            return None
        held = f"holds {top.images:,} images and " if top.images else ""
        raise DataError(f"{printable(top.path)}: {held}no class folders; {EXPECTED}")
    listing = _list_classes(top, _joined(folder.name, top.path.relative_to(folder).as_posix()), unread, notes)
    return listing if train is None else _matched(listing, train, notes)


def _list_classes(top: _Folder, place: str, unread: Unread, notes: list[str]) -> Listing:
    names = {path: _class_name(path) for path in top.folders}
    _check_twins(names, notes)
    ordered = sorted(names, key=lambda path: names[path])
    files: list[str] = []
    targets: list[int] = []
    empty = []
    inner = set()
    for number, path in enumerate(ordered):
        found, more = list_images(path)
        unread.update({(what, _joined(place, path.name)): n for what, n in _summed(more).items()})
        if not found:
            empty.append(names[path])
        else:
            below = (os.path.dirname(file[len(str(path)) + 1 :]).partition(os.sep)[0] for file in found)
            inner.add(frozenset(below))
        files += found
        targets += [number] * len(found)
    if not files:
        raise DataError(f"{top.path}: no images in its class folders; {no_images(unread)}")
    shared = sorted(inner.pop()) if len(inner) == 1 else [""]
    if len(ordered) - len(empty) > 1 < len(shared) and "" not in shared:
        notes.append(
            f"{printable(top.path)}: its folders ({_some([names[path] for path in ordered])}) hold folders of the same "
            f"names ({_some(shared)}) and are taken for classes; if they are parts, call them train, val and test"
        )
    return Listing(top.path, tuple(names[path] for path in ordered), tuple(files), tuple(targets), tuple(empty))


def _summed(unread: Unread) -> Counter[str]:
    sums: Counter[str] = Counter()
    for (what, _), count in unread.items():
        sums[what] += count
    return sums


def _class_name(folder: Path) -> str:
    """The name of a class folder in Unicode's composed form, which macOS and Linux write differently."""
    if printable(folder.name) != folder.name:
        raise DataError(
            f"{printable(folder)}: the name of this class folder is not printable UTF-8 text; expected: a name that is"
        )
    return unicodedata.normalize("NFC", folder.name)


def _key(name: str) -> str:
    """What two names must differ in to be two classes."""
    return unicodedata.normalize("NFC", name).strip()


def _check_twins(names: Mapping[Path, str], notes: list[str]) -> None:
    keys: dict[str, Path] = {}
    cases: dict[str, Path] = {}
    folders: dict[tuple[int, int], Path] = {}
    for path, name in names.items():
        same = folders.setdefault(_identity(path), path)
        if same is not path:
            raise DataError(
                f"{path.parent}: class folders {same.name!r} and {path.name!r} are one folder, by a link; "
                "expected: one folder per class"
            )
        twin = keys.setdefault(_key(name), path)
        if twin is not path:
            raise DataError(
                f"{path.parent}: class folders {twin.name!a} and {path.name!a} have the same name but for "
                "spaces or the way accents are written; expected: one folder per class"
            )
        other = cases.setdefault(_key(name).casefold(), path)
        if other is not path:
            notes.append(f"{path.parent}: classes {other.name!r} and {path.name!r} differ in upper and lower case only")


def _matched(listing: Listing, train: Listing, notes: list[str]) -> Listing:
    """Number the classes of a part as those of the training part."""
    numbers = {name: i for i, name in enumerate(train.classes)}
    taken: dict[str, str] = {name: name for name in listing.classes if name in numbers}
    for same in (_key, lambda name: _key(name).casefold()):
        free = {same(name): name for name in train.classes if name not in taken.values()}
        for name in listing.classes:
            if name not in taken and same(name) in free:
                taken[name] = free.pop(same(name))
                notes.append(f"{listing.folder}: class {name!r} is taken for {taken[name]!r} of {train.folder}")
    if lacking := [name for name in listing.classes if name not in taken]:
        raise DataError(
            f"{listing.folder}: has class folders that {train.folder} lacks ({_some(lacking)}); "
            "expected: classes of the training part"
        )
    have = {name for name in listing.classes if name not in listing.empty}
    if absent := [name for name in train.classes if name not in {taken[one] for one in have}]:
        notes.append(
            f"{listing.folder}: has no image of {len(absent)} of {len(train.classes)} classes ({_some(absent)})"
        )
    targets = [numbers[taken[listing.classes[t]]] for t in listing.targets]
    # The order of images is by class everywhere.
    order = sorted(range(len(targets)), key=targets.__getitem__)
    return Listing(
        listing.folder,
        train.classes,
        tuple(listing.files[i] for i in order),
        tuple(targets[i] for i in order),
        listing.empty,
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
