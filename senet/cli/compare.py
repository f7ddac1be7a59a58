"""`senet compare`: several networks, several seeds, one recipe; a table with the paired difference."""

from __future__ import annotations

from dataclasses import replace

from senet.cli import options, running, show
from senet.cli.line import Line, common_options, with_changes
from senet.errors import ConfigError

DESCRIPTION = """Train networks under identical conditions and compare their errors.

For each seed all networks see the same images in the same order with the same augmentation, and start from the same
values in every weight that they share. The table gives mean and deviation over the seeds and, against the first
network, the paired difference with its 95 % confidence interval (Student's t). Fields of the recipe are set as in
`senet train`; fields of the attention unit (--se.reduction 8) go to every network that has one."""


def run(argv: list[str]) -> int:
    """The command."""
    line = Line.of(argv)
    folder = None if line.asks_help else line.resume_folder("jobs")
    if folder is not None:
        return running.go_on(folder, as_json="--json" in line.options, jobs=line.count("jobs"))
    if len(line.words) < 2 and not line.asks_help:
        raise ConfigError("name two or more networks, for example: senet compare resnet20 se_resnet20 --seeds 3")
    first, *others = [line.recipe(word) for word in line.words or [""]]
    # One recipe trains all: a folder's would otherwise depend on the network.
    bases = [first, *(replace(first, name=o.name, model=o.model) for o in others)]
    base = next((b for b in bases if b.model.se is not None), first)
    kind = line.value("se", "model.se") or ""
    if kind in ("none", "null") or (kind and base.model.se is None):
        raise ConfigError(f"--se: {kind!r} has no effect; it changes the units of the networks that have one")
    shown = options.labelled(base, kind)
    parser = options.Parser("compare", "MODEL MODEL...", DESCRIPTION)
    parser.add_argument("MODEL", nargs="*", help="names of the networks, see: senet models")
    parser.option("seeds", type=int, default=3, metavar="N", help="number of seeds, from train.seed up")
    parser.option("jobs", type=int, default=0, metavar="N", help="runs side by side; 0: one per GPU, or one")
    common_options(parser)
    options.add_fields(parser, shown)
    found = parser.read(line.argv, shown)
    changed = options.apply(shown, found["fields"])
    options.check_effects(changed, found["named"])
    recipes = [with_changes(b, shown, changed) for b in bases]
    if found["jobs"] < 0:
        raise ConfigError(f"--jobs: {found['jobs']} is too small; expected: 0 or more")
    names = "-".join(r.name for r in recipes)
    folder = running.folder_for(found["out"], f"compare-{names}-{show.data_label(changed)}")
    jobs = found["jobs"] or running.default_jobs()
    return running.run_many(recipes, found["seeds"], folder, as_json=found["json"], jobs=jobs)
