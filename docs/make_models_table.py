"""Write the table of networks into docs/reference/networks.md; with --check, only say if it is stale.

python docs/make_models_table.py [--check]
"""

import json
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent / "reference" / "networks.md"
BEGIN, END = "<!-- models -->", "<!-- /models -->"


def table() -> str:
    """The rows, from `senet models --json`."""
    line = [sys.executable, "-m", "senet", "models", "--json"]
    rows = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    lines = ["| network | parameters | multiply-adds | image | plain twin |", "|---|--:|--:|--:|---|"]
    for row in rows:
        macs = f"{row['macs'] / 1e9:.4f} G" if row["macs"] >= 1e9 else f"{row['macs'] / 1e6:.3f} M"
        twin = f"`{row['plain_twin']}`" if row["plain_twin"] else ""
        lines.append(f"| `{row['model']}` | {row['params']:,} | {macs} | {row['image_size']} | {twin} |")
    return "\n".join(lines)


def main() -> int:
    """Returns 1 where --check finds another table."""
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    new = f"{head}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"
    if "--check" in sys.argv:
        print(f"{PAGE.name}: {'up to date' if new == text else 'stale; run python docs/make_models_table.py'}")
        return int(new != text)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
