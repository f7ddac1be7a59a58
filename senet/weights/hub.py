"""Networks on the Hugging Face Hub: weights fetched by a short name, networks saved, pushed and read back whole.

A repository of ours holds `model.safetensors`, which says its table and, where classes and preprocessing are known, is
also a checkpoint that `senet.load` reads; `config.json`, the network's table, its classes and how it wants its images;
and a model card.
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
from senet.weights.convention import check_intact
from senet.weights.fetch import HASH, first_line, is_spec
from senet.weights.files import KEY
from senet.weights.whole import name_of, read_network

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
    """A network from the Hub or a folder, with its weights, in evaluation mode; `preprocessing` says what it wants.

    source: "owner/name" of a repository, a folder or file, or a spec of `fetch`. It need not be one that
        `push_to_hub` made: of other libraries' weights, the network is found by names and shapes.
    revision: branch, tag or commit.
    quiet: do not print the ledger.

    Raises what `fetch` raises, and CheckpointError where it is none of the networks here.
    """
    text, mark, digest = str(source).partition(HASH)
    if REPOSITORY.fullmatch(text) and not Path(text).exists():
        text = f"hf:{text}"
    if revision is not None:
        if not is_spec(text):
            raise ConfigError(f"revision: {revision!r} has no effect on {text!r}, which is on this machine")
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
    """Write a network as a repository of the Hub has it: model.safetensors, config.json, README.md (a model card).

    What else is in the folder stays, and a README.md that is there too.

    name: what it is called; empty: the name here of the network that it is.
    classes: names of its outputs, in order.
    metrics: what was measured, for example `{"top1_error": 22.4}`, errors in percent.
    license: of the weights, in the Hub's words: "apache-2.0".

    `from_pretrained` reads it back; `senet.load` only with `classes`, and where `model.preprocessing` is known.

    Raises ConfigError for classes that are not as many as the outputs and a model that is no longer what its table
    says, such as one with units from `insert_`; RunError where it cannot be written.
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
    """Put a network into a repository of the Hub, made where there is none; returns the commit's address.

    repository: "owner/name".  name, classes, metrics, license: as in `save_pretrained`.
    private: whether others may not see a new repository.  branch: None is "main".  message: the commit's.
    token: None is that of `hf auth login`.

    Raises ConfigError as `save_pretrained`, RunError where the Hub refuses or cannot be reached.
    """
    carrier = _Carrier(model, name, classes, metrics or {}, license, repository)
    try:
        return carrier.push_to_hub(repository, private=private, branch=branch, commit_message=message, token=token)
    # The HTTP library's error is not the same in all versions of the client.
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise RunError(f"cannot push to {repository}: {first_line(error)}") from error


class _Carrier(
    huggingface_hub.PyTorchModelHubMixin,
    library_name="senet",
    tags=["image-classification", "squeeze-and-excitation"],
    pipeline_tag="image-classification",
    paper_url="https://arxiv.org/abs/1709.01507",
):
    """A network and what is told of it, as the Hub's mixin saves and pushes them."""

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
            raise ConfigError(f"classes: {len(classes)} names, and the network has {model.num_classes} outputs")
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
        weights = to_bytes(state, metadata={"format": "pt", KEY: json.dumps(self._header())})
        write_atomically(save_directory / "model.safetensors", lambda file: file.write(weights))
        write_text(save_directory / "config.json", json.dumps(self.about, indent=2) + "\n")

    def _header(self) -> dict[str, Any]:
        """A checkpoint's description, with a recipe where enough is known for one, else with the table alone."""
        about = {key: self.about[key] for key in ("classes", "preprocessing", "measurements")}
        p = self.model.preprocessing
        if p is None or not self.about["classes"]:
            return {"model": self.about["model"], **about}
        data = {
            "name": "imagenet" if self.model.num_classes == 1000 else "images",
            "image_size": p.image_size,
            "resize": p.resize,
            "interpolation": p.interpolation,
            "mean": [round(255 * value, 6) for value in p.mean],
            "std": [round(255 * value, 6) for value in p.std],
        }
        recipe = {"name": self.about["architecture"], "model": self.about["model"], "data": data}
        return {"version": 1, "recipe": recipe, **about}

    def generate_model_card(self, *args: Any, **kwargs: Any) -> huggingface_hub.ModelCard:
        """The README: what it is, how it wants its images, how to load it, what was measured."""
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
