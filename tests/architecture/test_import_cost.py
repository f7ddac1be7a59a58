"""`import senet` loads nothing: the package is a lazy table of names. How long it takes: `benchmarks/start_up.py`."""

from __future__ import annotations

import json
import subprocess
import sys


def modules_after(script: str) -> list[str]:
    """The modules that a fresh process has loaded after a script, without the standard library's."""
    script += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [name for name in json.loads(done.stdout) if name.partition(".")[0] not in sys.stdlib_module_names]


def test_import_senet_loads_nothing() -> None:
    assert set(modules_after("import senet")) - set(modules_after("")) == {"senet"}


def test_create_model_loads_torch_alone() -> None:
    outside = {name.partition(".")[0] for name in modules_after("import senet; senet.create_model('se_resnet20')")}
    assert {"senet", "torch"} <= outside
    outside -= {name.partition(".")[0] for name in modules_after("import torch")}
    assert not outside & {"torchvision", "lightning", "timm", "numpy", "PIL", "yaml", "matplotlib", "safetensors"}
