"""Fetch weights from the Hugging Face Hub by a short name, and check their hash."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from senet.errors import CheckpointError, ConfigError
from senet.outputs import reason

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The files that may hold a repository's weights, in order of preference."""

REPOSITORIES = {"hf": "{}", "timm": "timm/{}"}
"""The prefix of a spec -> the name of the repository."""

HASH = "#sha256="


def is_spec(source: object) -> bool:
    """Whether this is a spec for `fetch`, such as "timm:seresnet50.a1_in1k", and not only a path."""
    return isinstance(source, str) and (source.partition(":")[0] in REPOSITORIES or HASH in source)


def fetch(spec: str | Path) -> Path:
    """Download weights and their config.json, if there is one, and return their folder in the Hub's cache.

    What is in the cache is not downloaded again; with `HF_HUB_OFFLINE=1` nothing is.

    Args:
        spec: "timm:seresnet50.ra2_in1k" for a repository of timm, or "hf:owner/name" for any; then optionally
            "@revision" (a branch, tag or commit) and "#sha256=" with at least the first 8 digits of the weights' hash.
            A path is returned as it is, after its hash is checked.

    Raises:
        CheckpointError: If there is no such repository, revision or file, if it is neither in the cache nor can be
            downloaded, and if the hash differs.
        ConfigError: For a malformed spec.
    """
    text, has_hash, digest = str(spec).partition(HASH)
    digest = digest.lower()
    if has_hash and (not 8 <= len(digest) <= 64 or not set(digest) <= set("0123456789abcdef")):
        raise ConfigError(f"spec: {str(spec)!r} must end in 8 to 64 hexadecimal digits")
    path = _download(text) if is_spec(text) else Path(text).expanduser()
    if has_hash:
        file = next((path / name for name in WEIGHTS if (path / name).is_file()), path)
        found = _sha256(file)
        if not found.startswith(digest):
            raise CheckpointError(f"{file}: its sha256 is {found}; expected: {digest}; delete it to download it again")
    return path


def _download(spec: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    kind, _, rest = spec.partition(":")
    name, _, wanted = rest.partition("@")
    repository, revision, is_local = REPOSITORIES[kind].format(name), wanted or None, False
    for file in ("config.json", *WEIGHTS):
        try:
            path = Path(huggingface_hub.hf_hub_download(repository, file, revision=revision, local_files_only=is_local))
        except errors.LocalEntryNotFoundError:
            # The next file would not be reachable either, and asking takes half a minute.
            is_local = True
        except errors.EntryNotFoundError:
            continue
        except errors.HFValidationError as error:
            raise ConfigError(f"spec: {spec!r} names no repository; it is like 'hf:owner/name@revision'") from error
        except errors.GatedRepoError as error:
            raise CheckpointError(f"{spec}: {repository} needs a login with permission: hf auth login") from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointError(f"{spec}: the Hub has no repository {repository}, or it is private") from error
        except errors.RevisionNotFoundError as error:
            raise CheckpointError(f"{spec}: {repository} has no revision {wanted!r}") from error
        # The HTTP library's error type depends on the version of the client.
        except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
            raise CheckpointError(f"{spec}: cannot be downloaded: {reason(error)}") from error
        else:
            if file in WEIGHTS:
                return path.parent
            # Take all files of one commit, whatever is pushed meanwhile.
            revision = path.parent.name
    if not is_local:
        raise CheckpointError(f"{spec}: {repository} has neither {' nor '.join(WEIGHTS)}")
    constants = huggingface_hub.constants
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
    raise CheckpointError(f"{spec}: is not in the cache {constants.HF_HUB_CACHE}, and {why}")


def _sha256(path: Path) -> str:
    digest = sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()
