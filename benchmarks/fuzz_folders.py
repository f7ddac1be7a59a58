"""Random folders of images: `python -m benchmarks.fuzz_folders --trees 2000`.

Each tree has random parts, classes, names, endings, modes, sizes, damage, links, pipes and system files. It must be
read or refused in one line, and what is read and what is said not to be read must be everything there is.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import tempfile
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from senet.data import open_data, open_part
from senet.data.folders import find_layout
from senet.errors import SenetError
from senet.recipes.recipe import DataRecipe

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
ENDINGS = (
    *(".jpg", ".JPG", ".jpeg", ".jfif", ".png", ".PNG", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    *(".pbm", ".tga", ".jp2", ".ico", ".pcx", ".dib", ".sgi", ".avif", ".dds", ".im", ".apng", ".pfm", ".mpo"),
)
OTHERS = (
    *("notes.txt", "labels.csv", "README", "x.mp4", "draw.eps", "paper.pdf", "a.heic", "archive.zip", ".DS_Store"),
    *("Thumbs.db", "desktop.ini", "._0.png", ".hidden.jpg", "model.pth", "a.jpg.part", "naïve.TXT", "line\nbreak.txt"),
)
CLASSES = (
    *("a", "b", "cat", "dog", "Cat", "猫", "caf\u00e9", "cafe\u0301", "with space", "end ", "5$_$10", "x, y", "train"),
    *("_background_", "\udcb9\udcb7", "tab\there", "0", "00", "1" * 100),
)
PARTS = (
    *((), (), (), ("train", "val"), ("train", "val", "test"), ("Training", "Testing"), ("train", "valid", "test")),
    *(("train",), ("TRAIN", "dev"), ("train", "val", "valid"), ("test",), ("train", "holdout")),
)


@cache
def picture(mode: str, ending: str, size: tuple[int, int], seed: int) -> bytes:
    """An encoded image of random pixels, in another format where the ending's lacks the mode."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(noise[..., 0].astype(np.float32) / 255)
    elif mode == "I":
        image = Image.fromarray(noise[..., 0].astype(np.int32) * (1 if seed % 2 else 200))
    elif mode == "LAB":
        image = Image.merge("LAB", image.split())
    else:
        image = image.convert(mode)
    own = Image.registered_extensions().get(ending.lower(), "PNG")
    for kind in ("TIFF",) if mode == "I" else (own, "PNG", "TIFF"):
        file = io.BytesIO()
        try:
            image.save(file, kind)
            return file.getvalue()
        except (OSError, ValueError, KeyError):
            continue
    return b""


class Tree:
    """Writes one random tree and counts what it writes.

    Attributes:
        entries: Files, and links to folders and hidden folders, each of which must be read or counted.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random, self.entries = root, random.Random(seed), 0
        Image.init()
        root.mkdir()
        parts = self.random.choice(PARTS)
        depth = self.random.choice((0, 0, 0, 0, 1, 2))
        inner = root.joinpath("tree", *["photos"] * depth)
        inner.mkdir(parents=True)
        names = self.random.sample(CLASSES, self.random.choice((1, 2, 2, 3, 3, 4)))
        # Most trees can be read.
        if self.random.random() < 0.9:
            names = [name for name in names if "\udcb9" not in name and "\t" not in name] or ["a", "b"]
        for part in parts or ("",):
            (inner / part).mkdir(exist_ok=True)
            for name in names:
                if self.random.random() < 0.98:
                    self.fill(inner / part / name, self.random.choice((2, 3, 3, 4)), deep=2)
            if self.random.random() < 0.2:
                self.clutter(inner / part)
        if self.random.random() < 0.3:
            self.clutter(inner)
        if self.random.random() < 0.1:
            self.write(inner / "stray.png", self.picture(".png"))

    @property
    def folder(self) -> Path:
        """The folder to open."""
        return self.root / "tree"

    def picture(self, ending: str) -> bytes:
        """A small image."""
        size = self.random.choice(((1, 1), (8, 8), (9, 5), (3, 17)))
        return picture(self.random.choice(MODES), ending, size, self.random.randrange(4))

    def write(self, path: Path, data: bytes = b"") -> None:
        """Write a file once."""
        self.entries += not os.path.lexists(path)
        path.write_bytes(data)

    def fill(self, folder: Path, images: int, deep: int) -> None:
        """Fill a class folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(images):
            ending = self.random.choice(ENDINGS)
            data = self.picture(ending)
            damage = self.random.random()
            if damage < 0.03:
                data = data[: len(data) // 2]
            elif damage < 0.05:
                data = self.random.choice((b"", b"junk", b"%!PS-Adobe\n", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
            name = self.random.choice(("{}", "img {}", "é{}", "\udcff{}", "a\n{}")).format(i)
            self.write(folder / f"{name}{ending}", data)
        if self.random.random() < 0.3:
            self.clutter(folder)
        if deep and self.random.random() < 0.3:
            self.fill(folder / self.random.choice(("more", "x.png", "train", "b")), self.random.randrange(3), deep - 1)

    def clutter(self, folder: Path) -> None:
        """Add what is no image, links, pipes and system folders."""
        for name in self.random.sample(OTHERS, self.random.randrange(4)):
            self.write(folder / name, b"x")
        kind = self.random.randrange(8)
        link = folder / f"link{self.entries}"
        if kind == 0:
            # Whose images are read through the link.
            away = self.root / f"away{self.entries}"
            self.fill(away, 2, deep=0)
            link.symlink_to(away)
        elif kind == 1:
            link.symlink_to(self.random.choice((folder, *folder.parents)))
            self.entries += 1
        elif kind == 2:
            link.with_suffix(self.random.choice((".png", ".txt"))).symlink_to(folder / "absent")
            self.entries += 1
        elif kind == 3:
            os.mkfifo(link.with_suffix(".jpg"))
            self.entries += 1
        elif kind == 4:
            hidden = folder / self.random.choice((".git", "__MACOSX", "@eaDir", "System Volume Information"))
            if not hidden.exists():
                hidden.mkdir()
                (hidden / "0.png").write_bytes(b"")
                self.entries += 1


def check(root: Path, seed: int) -> str:
    """Make, list and open one tree; returns "read", or the beginning of what the error says.

    AssertionError for what is read and not read being other than everything; any other error is a fault too.
    """
    tree = Tree(root, seed)
    recipe = DataRecipe(name=str(tree.folder), image_size=8, on_bad_image="skip", mean=(0.5,) * 3, std=(0.5,) * 3)
    if seed % 3 == 0:
        recipe = DataRecipe(name=str(tree.folder), image_size=8, on_bad_image="skip", pixel_range=(0.0, 255.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            layout = find_layout(tree.folder)
            files = [file for listing in layout.parts.values() for file in listing.files]
            found = len(files) + layout.unread.total()
            assert found == tree.entries, f"seed {seed}: {found} of {tree.entries} entries"
            assert len(set(files)) == len(files), f"seed {seed}: a file is read twice"
            if not recipe.pixel_range:
                open_part(recipe)
            data = open_data(recipe, seed=0)
        except SenetError as error:
            message = str(error).replace(str(root), "")
            assert "\n" not in message, f"seed {seed}: {message!r}"
            message.encode()
            return message.split(":", 1)[-1].split(";")[0][:60]
        opened = sum(len(split) + len(split.skipped) for split in data.parts.values())
        assert opened == len(files), f"seed {seed}: {opened} of {len(files)} images"
        for text in (data.source, *data.notes, *(line for split in data.parts.values() for line in split.skipped)):
            assert "\n" not in text, f"seed {seed}: {text!r}"
            text.encode()
    return "read"


def main() -> None:
    """Fuzz and print what became of the trees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first tree")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for seed in range(options.first, options.first + options.trees):
            outcomes[check(Path(name) / str(seed), seed)] += 1
            shutil.rmtree(Path(name) / str(seed))
    for outcome, count in outcomes.most_common():
        print(f"{count:5}  {outcome}")


if __name__ == "__main__":
    main()
