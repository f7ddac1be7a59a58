"""Guard 2: after torch, `import senet` costs nothing and brings nothing along."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys, time
import torch
before = set(sys.modules)
seconds = []
for _ in range(3):
    sys.modules.pop("senet", None)
    start = time.perf_counter()
    import senet
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": min(seconds), "new": sorted(set(sys.modules) - before)}))
"""


def fresh(script: str) -> dict[str, object]:
    """What a fresh process prints as JSON."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_senet_is_cheap_and_brings_nothing() -> None:
    found = fresh(SCRIPT)
    outside = {name.partition(".")[0] for name in found["new"]} - {"senet"}
    assert outside <= sys.stdlib_module_names
    # A lazy table: no room is opened before it is needed.
    assert [name for name in found["new"] if name.startswith("senet")] == ["senet"]
    # The fastest of three: what else runs on the machine only adds.
    assert found["seconds"] < 0.05


def test_import_senet_alone_does_not_import_torch() -> None:
    found = fresh("import json, sys; import senet; print(json.dumps({'torch': 'torch' in sys.modules}))")
    assert found == {"torch": False}


def test_create_model_brings_torch_alone() -> None:
    script = SCRIPT.replace("print(", "senet.create_model('se_resnet20')\nprint(")
    outside = {name.partition(".")[0] for name in fresh(script)["new"]}
    assert "senet" in outside
    assert not outside & {"torchvision", "lightning", "timm", "numpy", "PIL", "yaml", "jsonargparse", "safetensors"}
