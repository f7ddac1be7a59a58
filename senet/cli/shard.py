"""`senet shard`: a folder of images as shards, WebDataset tars that training reads by index, also over the network."""

from __future__ import annotations

from pathlib import Path

from senet.cli.output import print_json, progress
from senet.cli.parse import Parser
from senet.errors import ConfigError

DESCRIPTION = """Write a folder of images as shards, for --data OUT: plain tars in WebDataset's format, and an index.

FOLDER is what --data takes: a folder of images, split or not, or a CSV file. Training on the shards has the same images
in the same order, with the same crops and the same images held out, as on the folder. Copy OUT to a web server or an
object store and train from there with --data https://... or --data s3://bucket/prefix. A stopped run continues:
shards that are whole are kept. Each shard is read again and compared when it is written; --check does so at any time,
also at a URL."""

EXAMPLES = (
    "senet shard photos photo-shards",
    "senet shard imagenet imagenet-shards --shard-mb 512 --jobs 8",
    "senet shard https://example.org/photo-shards --check",
)


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("shard", "FOLDER [OUT]", DESCRIPTION, examples=EXAMPLES)
    parser.word("FOLDER", help="the images; with --check, the shards")
    parser.word("OUT", help="the folder to write", count="?")
    parser.option(
        "shard_mb", type=int, default=256, low=1, high=100_000, metavar="MB", help="size of a shard, in 1e6 bytes"
    )
    parser.option("jobs", type=int, default=2, low=1, high=256, metavar="N", help="shards written, or checked, at once")
    parser.switch("check", help="read all images of FOLDER, which has shards, and compare them with their digests")
    parser.json()
    found = parser.read(argv)
    if found["check"] == bool(found["OUT"]):
        raise ConfigError(
            "OUT: has no effect with --check" if found["check"] else "OUT: is missing; to check shards: --check"
        )

    from senet.data.images import BUILT_IN
    from senet.data.shard_writer import check_shards, write_shards
    from senet.data.shards import is_shards, store_for
    from senet.data.sources import find_images
    from senet.recipes.recipe import DataRecipe

    recipe = DataRecipe(name=found["FOLDER"])
    kept, faults = 0, []
    with progress(found["json"]):
        if found["check"]:
            if not is_shards(recipe.name):
                raise ConfigError(f"FOLDER: {recipe.name!r} has no shards; expected: the OUT of senet shard, or a URL")
            index, faults = check_shards(store_for(recipe), jobs=found["jobs"], progress=True)
            out = found["FOLDER"]
        else:
            if is_shards(recipe.name):
                raise ConfigError(f"FOLDER: {recipe.name!r} has shards already")
            if recipe.name in BUILT_IN:
                raise ConfigError(f"FOLDER: {recipe.name!r} is kept in memory and needs no shards; expected: a folder")
            out = Path(found["OUT"]).expanduser()
            written = write_shards(
                find_images(recipe), out, shard_bytes=found["shard_mb"] * 10**6, jobs=found["jobs"], progress=True
            )
            index, kept = written.index, written.kept
    shards = [shard for part in index.parts.values() for shard in part.shards]
    told = {
        "out": str(out),
        "classes": len(index.classes),
        "images": {name: len(part.rows) for name, part in index.parts.items()},
        "shards": len(shards),
        "kept": kept,
        "bytes": sum(shard.bytes for shard in shards),
        "faults": faults,
    }
    if found["json"]:
        print_json(told)
        return 1 if faults else 0
    images = ", ".join(f"{count:,}{'' if name == 'all' else f' {name}'}" for name, count in told["images"].items())
    size = f"{told['bytes'] / 1e9:.3g} GB" if told["bytes"] >= 1e9 else f"{told['bytes'] / 1e6:.3g} MB"
    state = f"{len(faults):,} are missing or damaged" if faults else "all digests are right"
    print(
        f"{out}: {images} images of {len(index.classes):,} classes in {len(shards):,} shard{'s' * (len(shards) > 1)}, "
        f"{size}{f'; {kept:,} kept from before' if kept else ''}; {state}",
        *faults,
        sep="\n",
    )
    if not found["check"]:
        print(f"\n  senet train --data {out}")
    return 1 if faults else 0
