"""Read objects in images from annotations in COCO's format, or from a folder in YOLO's."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from senet.data.folders import PARTS, PartName, list_images, no_images, printable
from senet.data.images import upright_size
from senet.data.objects import Faults, Objects, fault
from senet.errors import DataError

EXPECTED = (
    "expected: annotations/*.json in COCO's format beside the folders of images, or images/ and labels/ with a "
    "data.yaml in YOLO's"
)

EMPTY = np.zeros((0, 4))


@dataclass
class ObjectListing:
    """The images of one part.

    Attributes:
        classes: Names of the classes.
        objects: Of each image, sorted by file.
        faults: Boxes that are left out.
        source: The file or folder of the annotations.
    """

    classes: tuple[str, ...]
    objects: list[Objects]
    source: Path
    faults: Faults = field(default_factory=Faults)


def read_objects(folder: Path) -> dict[PartName, ObjectListing]:
    """The parts of a folder: of "train", "val" and "test" those that there are, or "all" alone.

    Images without an annotation file are not listed.

    Raises:
        DataError: It has no annotations, or they cannot be used.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(folder)}: no such folder; {EXPECTED}")
    files = [*folder.glob("*.json"), *folder.glob("annotations/*.json"), *folder.glob("*/_annotations.coco.json")]
    files = sorted(file for file in files if not file.name.startswith(("captions", "person_keypoints", "image_info")))
    if files:
        found = {part: read_coco(file, folder) for part, file in _parts_of_files(files).items()}
    else:
        found = read_yolo(folder)
    return _with_classes_of_first(found)


def _parts_of_files(files: Sequence[Path]) -> dict[PartName, Path]:
    """The part of each annotation file, by its name or its folder's: instances_train2017.json is "train"."""
    found: dict[PartName, Path] = {}
    for file in files:
        text = (file.parent.name if file.name.startswith("_annotations") else file.stem).lower()
        words = "".join(c if c.isalpha() else " " for c in text).split()
        part: PartName = next((PARTS[word] for word in words if word in PARTS), "all")  # type: ignore[assignment]
        if part in found:
            raise DataError(f"{file}: is a second annotation file of the part {part!r}, beside {found[part].name}")
        found[part] = file
    if "all" in found and len(found) > 1:
        raise DataError(f"{found['all']}: its name does not tell its part; expected: train, val or test in every name")
    return found


def _with_classes_of_first(parts: dict[PartName, ObjectListing]) -> dict[PartName, ObjectListing]:
    """The parts with the classes of the training part, by name; DataError for a class that this lacks."""
    order: tuple[PartName, ...] = ("train", "all", "val", "test")
    listed: dict[PartName, ObjectListing] = {part: parts[part] for part in order if part in parts}
    first = next(iter(listed.values()))
    number = {name: k for k, name in enumerate(first.classes)}
    for listing in listed.values():
        used = {int(k) for o in listing.objects for k in o.classes}
        if lacking := [listing.classes[k] for k in sorted(used) if listing.classes[k] not in number]:
            raise DataError(f"{listing.source}: has a class that {first.source} lacks: {lacking[0]!r}")
        to = np.array([number.get(name, -1) for name in listing.classes], np.int64)
        for o in listing.objects:
            o.classes[:] = to[o.classes]
        listing.classes = first.classes
    return listed


def read_coco(file: Path, folder: Path) -> ObjectListing:
    """Read annotations in COCO's format; ids of images, categories and annotations may be any numbers or texts.

    Args:
        file: The JSON file.
        folder: Of the data set, below which the images are looked for.

    Raises:
        DataError: It is not of that format, or an image is not found.
    """
    data = _json(file)
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, keys in (
        ("images", ("id", "file_name")),
        ("categories", ("id", "name")),
        ("annotations", ("image_id", "category_id", "bbox")),
    ):
        rows = data.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file}: has no list {name!r}; expected: COCO's format")
        for i, row in enumerate(rows):
            if missing := [key for key in keys if key not in row]:
                raise DataError(f"{file}: {name}[{i}] has no {missing[0]!r}; expected: {', '.join(keys)}")
        tables[name] = rows
    names = [str(row["name"]) for row in tables["categories"]]
    doubled = [name for name, n in Counter(names).items() if n > 1]
    number = {_id(row): k for k, row in enumerate(tables["categories"])}
    if doubled or len(number) < len(names):
        what = f"two categories are called {doubled[0]!r}" if doubled else "two categories have one id"
        raise DataError(f"{file}: {what}; expected: a name and an id of its own for each")
    if not names or not tables["images"]:
        raise DataError(f"{file}: names no {'images' if names else 'categories'}")
    find = _Finder(file, folder)
    by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {_id(row): [] for row in tables["images"]}
    if len(by_image) < len(tables["images"]):
        raise DataError(f"{file}: two images have one id; expected: an id of its own for each")
    faults = Faults()
    for i, row in enumerate(tables["annotations"]):
        if row["category_id"] not in number:
            raise DataError(f"{file}: annotations[{i}] has the category {row['category_id']!r}, which is not listed")
        if row["image_id"] not in by_image:
            faults.add("of images that are not listed", f"annotations[{i}], image_id {row['image_id']!r}")
            continue
        by_image[row["image_id"]].append((i, row))
    listing = []
    for image in sorted(tables["images"], key=lambda row: str(row["file_name"])):
        path = find(str(image["file_name"]))
        width, height = image.get("width"), image.get("height")
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            width, height = upright_size(path)
        rows = [
            Box(
                _numbers(row["bbox"]),
                number[row["category_id"]],
                bool(row.get("iscrowd", 0)),
                row.get("area"),
                row.get("segmentation"),
                f"{image['file_name']}, annotations[{i}]",
            )
            for i, row in by_image[_id(image)]
        ]
        listing.append(objects_of(str(path), width, height, rows, faults))
    return ObjectListing(tuple(names), listing, file, faults)


@dataclass(frozen=True)
class Box:
    """One annotated object: its box (left, top, width, height) in pixels, its class, and where it is written."""

    box: tuple[float, float, float, float]
    of: int
    crowd: bool
    area: float | None
    mask: Any
    where: str


def objects_of(file: str, width: int, height: int, rows: Iterable[Box], faults: Faults) -> Objects:
    """The objects of an image, without those that cannot be used, which are counted in `faults`."""
    kept = []
    for row in rows:
        if why := fault(row.box, width, height):
            faults.add(why, row.where)
        else:
            kept.append(row)
    sides = [r.box[2] * r.box[3] for r in kept]
    areas = [float(r.area) if _is_number(r.area) else side for r, side in zip(kept, sides, strict=True)]
    masks = tuple(r.mask for r in kept)
    return Objects(
        file,
        width,
        height,
        np.array([r.box for r in kept], np.float64) if kept else EMPTY,
        np.array([r.of for r in kept], np.int64),
        np.array([r.crowd for r in kept], bool),
        np.array(areas, np.float64),
        masks if masks and all(masks) else (),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _id(row: dict[str, Any]) -> Any:
    value = row["id"]
    return value if isinstance(value, (int, str, float)) else repr(value)


def _numbers(box: Any) -> tuple[float, float, float, float]:
    """A box of a JSON file; NaN for anything but four numbers."""
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        return math.nan, math.nan, math.nan, math.nan
    left, top, width, height = map(float, box)
    return left, top, width, height


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(file)}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{printable(file)}: is a {type(data).__name__}; expected: COCO's format, an object")
    return data


class _Finder:
    """Finds the image files that a JSON file names: beside it, in the folder of its part, in images/ or below."""

    def __init__(self, file: Path, folder: Path) -> None:
        stem = file.stem.removeprefix("instances_")
        self.places = [file.parent, folder / stem, folder / "images" / stem, folder / "images", folder]
        self.file = file

    def __call__(self, name: str) -> Path:
        for i, place in enumerate(self.places):
            if (path := place / name).is_file():
                # The next image is most likely there too.
                self.places.insert(0, self.places.pop(i))
                return path
        raise DataError(f"{self.file}: image {printable(name)!r} is not in {', '.join(map(printable, self.places))}")


def read_yolo(folder: Path) -> dict[PartName, ObjectListing]:
    """Read a folder in YOLO's format: for images/a.jpg a file labels/a.txt with lines "class x y width height".

    Positions are of the centre, all as shares of the image. A line may be a polygon, "class x1 y1 x2 y2 ...". data.yaml
    names the parts and the classes; without one, images/train, images/val and numbers are taken. An image without a
    file of labels has no objects.

    Raises:
        DataError: It is not of that format.
    """
    settings = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(settings) > 1:
        raise DataError(f"{folder}: has {len(settings)} YAML files; expected: one, data.yaml")
    about: dict[str, Any] = {}
    if settings:
        try:
            about = yaml.safe_load(settings[0].read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{settings[0]}: cannot be read as YAML: {' '.join(str(error).split())}") from error
        if not isinstance(about, dict) or "names" not in about:
            raise DataError(f"{settings[0]}: has no 'names'; expected: names of the classes, and train, val, test")
    root = folder / str(about["path"]) if about.get("path") and (folder / str(about["path"])).is_dir() else folder
    parts: dict[PartName, list[Path]] = {}
    for name, part in PARTS.items():
        places = about.get(name) if settings else None
        for place in [places] if isinstance(places, str) else places or []:
            # Paths of the machine that wrote them are often those of another place.
            found = next((p for p in (root / place, folder / place, folder / place.lstrip("./")) if p.is_dir()), None)
            if found is None:
                raise DataError(f"{settings[0]}: {name}: no folder {place!r} in {root}")
            parts.setdefault(part, []).append(found)
        for where in (folder / "images" / name, folder / name / "images"):
            if not settings and where.is_dir():
                parts.setdefault(part, []).append(where)
    if not parts and (folder / "images").is_dir() and (folder / "labels").is_dir():
        parts["all"] = [folder / "images"]
    if not parts:
        raise DataError(f"{folder}: has no annotations of objects; {EXPECTED}")
    names = about.get("names")
    pairs = names.items() if isinstance(names, dict) else enumerate(names or ())
    by_number = {int(k): str(name) for k, name in pairs}
    raw: dict[PartName, list[Any]] = {
        part: [(file, *_yolo_lines(file)) for where in places for file in sorted(list_images(where)[0])]
        for part, places in parts.items()
    }
    if not by_number:
        most = max((line[0] for images in raw.values() for _, _, lines in images for line in lines), default=-1)
        by_number = {k: str(k) for k in range(most + 1)}
    if not by_number:
        raise DataError(f"{folder}: names no classes and has no boxes; {EXPECTED}")
    number = {k: i for i, k in enumerate(sorted(by_number))}
    found_parts: dict[PartName, ObjectListing] = {}
    for part, images in raw.items():
        faults = Faults()
        listing = []
        for file, labels, lines in images:
            width, height = upright_size(Path(file))
            rows = []
            for at, (of, values) in ((f"{labels}, line {k + 1}", line) for k, line in enumerate(lines)):
                if of not in number:
                    raise DataError(f"{at}: class {of}; expected: {', '.join(map(str, sorted(number)))}")
                rows.append(_yolo_box(values, width, height, number[of], at))
            listing.append(objects_of(file, width, height, rows, faults))
        if not listing:
            raise DataError(f"{parts[part][0]}: {no_images({})}")
        found_parts[part] = ObjectListing(
            tuple(by_number[k] for k in sorted(by_number)), listing, parts[part][0], faults
        )
    return found_parts


def _yolo_lines(file: str) -> tuple[Path, list[tuple[int, list[float]]]]:
    """The file of an image's labels, and class and numbers of each line."""
    path = Path(file)
    at = len(path.parts) - 1 - path.parts[::-1].index("images") if "images" in path.parts else -1
    labels = Path(*path.parts[:at], "labels", *path.parts[at + 1 :]) if at >= 0 else path
    labels = labels.with_suffix(".txt")
    if not labels.is_file():
        return labels, []
    found = []
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(labels)}: cannot be read: {error}") from error
    for k, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        try:
            of, values = float(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            of, values = math.nan, []
        if not of.is_integer() or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise DataError(
                f"{printable(labels)}, line {k + 1}: {line!r}; expected: class x y width height, or a polygon"
            )
        found.append((int(of), values))
    return labels, found


def _yolo_box(values: list[float], width: int, height: int, of: int, where: str) -> Box:
    if len(values) == 4:
        x, y, w, h = values
        box = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
        return Box(box, of, False, None, None, where)
    xs, ys = [v * width for v in values[::2]], [v * height for v in values[1::2]]
    polygon = [v for pair in zip(xs, ys, strict=True) for v in pair]
    return Box((min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)), of, False, None, [polygon], where)
