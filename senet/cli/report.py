"""`senet report`: one HTML file about a run, an experiment or an analysis of gates."""

from __future__ import annotations

from pathlib import Path

from senet.cli.output import print_json
from senet.cli.parse import Parser
from senet.errors import RunError

DESCRIPTION = """Write FOLDER/report.html: what was trained or measured there, to look at.

FOLDER is one that senet train, compare, reproduce or analyze wrote. The report is one file that works offline and
loads nothing. The report of a run shows its gates once senet analyze has measured them. With --details it also shows
the errors of each class, the confusions and the calibration of the weights that it kept, measured on its own data and
kept in evaluation.json."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("report", "FOLDER", DESCRIPTION)
    parser.word("FOLDER", help="a folder of senet train, compare, reproduce or analyze")
    parser.switch("details", help="evaluate the weights that the run kept: classes, confusions, calibration")
    parser.option("data", metavar="FOLDER", help="with --details: where the run's images are now")
    parser.device(help="where --details computes")
    parser.json()
    found = parser.read(argv)
    folder = Path(found["FOLDER"]).expanduser()
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    if not found["details"]:
        found.refuse(("device", "data"), "without --details")
    else:
        from senet.report.details import measure_details

        measure_details(folder, images=found["data"], device=found["device"], progress=not found["json"])
    from senet.report.folder import write_page

    path = write_page(folder)
    if found["json"]:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        print(f"report  {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0
