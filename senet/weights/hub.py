"""Networks on the Hugging Face Hub: save them, push them, and read them back.

A repository of ours holds `model.safetensors`, which `senet.load` reads as a checkpoint if it states classes and
preprocessing; `config.json`, which states the same and the network's table; and a model card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors
from safetensors.torch import save as to_bytes

from senet import __version__
from senet.config import to_dict
from senet.errors import ConfigError, RunError
from senet.files import write_atomically, write_text
from senet.models.network import Network
from senet.outputs import reason
from senet.weights.convention import check_intact
from senet.weights.fetch import HASH, is_spec
from senet.weights.header import KEY, Header
from senet.weights.identify import name_of, read_network

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@.+)?")
"""owner/name on the Hub, perhaps with a revision; other texts without a colon are paths."""

CARD = """---
{yaml}
---

# {name}

A network of [arXiv:1709.01507](https://arxiv.org/abs/1709.01507) or its plain twin, for the PyTorch library `senet`.

- Parameters: {parameters:,}
- Outputs: {classes}
- Images: {images}

```python
import senet

model = senet.from_pretrained("{address}")
```
{measured}"""


def from_pretrained(source: str | Path, *, revision: str | None = None, quiet: bool = False) -> Network:
    """A network from the Hub or a folder, with its weights, in evaluation mode, and its `preprocessing`.

    Args:
        source: "owner/name" of a repository, a folder or file, or a spec of `fetch`. Repositories of other libraries
            work too: the network is found from names and shapes.
        revision: Branch, tag or commit.
        quiet: Do not print the load report.

    Raises:
        CheckpointError: If the source cannot be had (see `fetch`), or holds no network of ours.
        ConfigError: For a malformed spec, and for a `revision` without effect.
    """
    text, mark, digest = str(source).partition(HASH)
    if REPOSITORY.fullmatch(text) and not Path(text).exists():
        text = f"hf:{text}"
    if revision is not None:
        if not is_spec(text):
            raise ConfigError(f"revision: {revision!r} has no effect on {text!r}, a local path")
        text = f"{text}@{revision}"
    _, model, _ = read_network(f"{text}{mark}{digest}", quiet=quiet)
    return model


def save_pretrained(
    model: Network,
    folder: str | Path,
    *,
    name: str = "",
    classes: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    license: str = "unknown",
) -> None:
    """Write a network as a repository of the Hub: model.safetensors, config.json, README.md (a model card).

    Other files in the folder stay, and so does an existing README.md. `from_pretrained` reads the folder back; so does
    `senet.load` if `classes` and `model.preprocessing` are known.

    Args:
        model: The network.
        folder: Made if absent.
        name: What it is called; empty: the name of the network here with this table.
        classes: Names of its outputs, in order.
        metrics: What was measured, such as `{"top1_error": 22.4}`; errors in percent.
        license: Of the weights, as the Hub names it: "apache-2.0".

    Raises:
        ConfigError: If there are not as many classes as outputs, and for a model that no longer has the tensors of its
            table, such as one with units from `insert_`.
        RunError: If the folder cannot be written.
    """
    carrier = _Carrier(model, name, classes, metrics or {}, license, Path(folder).name)
    try:
        carrier.save_pretrained(folder)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}") from error


def push_to_hub(
    model: Network,
    repository: str,
    *,
    name: str = "",
    classes: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    license: str = "unknown",
    private: bool | None = None,
    branch: str | None = None,
    message: str = "Push a network of senet",
    token: str | None = None,
) -> str:
    """Push a network to a repository of the Hub, which is made if it does not exist.

    Args:
        model: The network.
        repository: "owner/name".
        name: As in `save_pretrained`, like the next three.
        classes: Names of its outputs.
        metrics: What was measured.
        license: Of the weights.
        private: Make a new repository private.
        branch: None for "main".
        message: Of the commit.
        token: None for that of `hf auth login`.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: As `save_pretrained`.
        RunError: If the Hub refuses or cannot be reached.
    """
    carrier = _Carrier(model, name, classes, metrics or {}, license, repository)
    try:
        return carrier.push_to_hub(repository, private=private, branch=branch, commit_message=message, token=token)
    # The HTTP library's error type depends on the version of the client.
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise RunError(f"cannot push to {repository}: {reason(error)}") from error


class _Carrier(
    huggingface_hub.PyTorchModelHubMixin,
    library_name="senet",
    tags=["image-classification", "squeeze-and-excitation"],
    pipeline_tag="image-classification",
    paper_url="https://arxiv.org/abs/1709.01507",
):
    """A network and its description, as the Hub's mixin saves and pushes them."""

    def __init__(
        self,
        model: Network,
        name: str,
        classes: Sequence[str],
        metrics: Mapping[str, float],
        license: str,
        address: str,
    ) -> None:
        check_intact(model)
        if classes and len(classes) != model.num_classes:
            raise ConfigError(f"classes: {len(classes)} names; expected: {model.num_classes}, one per output")
        self.model, self.license, self.address = model, license, address
        self.about: dict[str, Any] = {
            "library_name": "senet",
            "senet_version": __version__,
            "architecture": name or name_of(model.net),
            "model": to_dict(model.net),
            "num_classes": model.num_classes,
            "classes": list(classes),
            "preprocessing": to_dict(model.preprocessing) if model.preprocessing else None,
            "measurements": dict(metrics),
        }

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {name: t.detach().cpu().contiguous() for name, t in self.model.state_dict().items()}
        header = Header(
            name=self.about["architecture"],
            model=self.model.net,
            preprocessing=self.model.preprocessing,
            classes=tuple(self.about["classes"]),
            measurements=self.about["measurements"],
        )
        weights = to_bytes(state, metadata={"format": "pt", KEY: header.dumps()})
        write_atomically(save_directory / "model.safetensors", lambda file: file.write(weights))
        write_text(save_directory / "config.json", json.dumps(self.about, indent=2) + "\n")

    def generate_model_card(self, *args: Any, **kwargs: Any) -> huggingface_hub.ModelCard:
        """The README: what the network is, how it expects its images, how to load it, what was measured."""
        usual = self._hub_mixin_info.model_card_data.to_dict()
        p = self.model.preprocessing
        images = "not stated"
        if p is not None:
            mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (p.mean, p.std))
            images = (
                f"{'RGB' if len(p.mean) == 3 else 'grey'} from 0 to 1, shorter side {p.resize} ({p.interpolation}), "
                f"central {p.image_size}, less ({mean}), over ({std})"
            )
        named = "; their names are in `config.json`" if self.about["classes"] else ""
        rows = "".join(f"| {name} | {value:g} |\n" for name, value in self.about["measurements"].items())
        return huggingface_hub.ModelCard(
            CARD.format(
                yaml=huggingface_hub.ModelCardData(**usual, license=self.license).to_yaml(),
                name=self.about["architecture"],
                parameters=sum(t.numel() for t in self.model.parameters()),
                classes=f"{self.model.num_classes}{named}",
                images=images,
                address=self.address,
                measured=f"\n| measured | |\n|---|---|\n{rows}" if rows else "",
            )
        )
