"""Pretrained models on this machine: where they lie, what they are, and loading them without a word from a library.

Nothing is ever downloaded: whoever wants a model fetches it knowingly, and names a folder or finds it in the cache of
the Hugging Face Hub.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dfkd_bench import DfkdError
from dfkd_bench.errors import first_line
from dfkd_bench.foreign import read_json

__all__ = ["find_model", "identity", "load_pretrained", "missing", "quiet", "read_config"]

_INDEX = "model_index.json"


def find_model(model: str, revision: str | None, index: str = _INDEX) -> Path | None:
    """The folder of a model: a local one, or a repository's snapshot in the local cache; None if it is not here.

    `index` is a file that every such repository has.
    """
    from huggingface_hub import try_to_load_from_cache

    local = Path(model).expanduser()
    if local.is_dir():
        return local
    try:
        found = try_to_load_from_cache(model, index, revision=revision or "main")
    except ValueError:  # no repository has such a name
        return None
    return Path(found).parent if isinstance(found, str) else None


def missing(
    model: str,
    revision: str | None,
    *,
    safetensors: bool,
    parts: str,
    only: tuple[str, ...] = (),
    option: str = "augmenter.model",
) -> str | None:
    """What of a pipeline is not on this machine, ending the sentence "the augmenter ..."; None if all is.

    Args:
        model: a repository's id, or a folder.
        revision: of the repository.
        safetensors: weights are wanted in that format, else in .bin files.
        parts: what a download would consist of.
        only: the components that are needed; empty: all.
        option: which option names the model.
    """
    folder = find_model(model, revision)
    at = f" (revision {revision})" if revision else ""
    command = f"`hf download {model}{f' --revision {revision}' if revision else ''}`"
    get = "" if Path(model).expanduser().is_dir() else f" with {command}"
    local = f"or name a local copy with --set {option}=FOLDER"
    if folder is None:
        return (
            f"needs '{model}'{at}, which is not on this machine: {parts} would be downloaded; get it{get} "
            f"while online, {local}"
        )
    if not (folder / _INDEX).is_file():
        return f"finds no {_INDEX} in {folder}, so that it is no model of diffusers: {local.removeprefix('or ')}"
    for name, part in _parts(folder):
        if only and name not in only:
            continue
        if not part.is_dir():
            return f"finds no {name} in {folder}, the local copy of '{model}': complete it{get}, {local}"
        wanted, other = ("*.safetensors", "*.bin") if safetensors else ("*.bin", "*.safetensors")
        if any(part.glob(wanted)) or not (part / "config.json").is_file():
            continue
        if any(part.glob(other)):
            danger = ", a format that can hold code" if safetensors else ""
            return (
                f"finds the weights of {name} in {folder} as {other} alone{danger}: take them with "
                f"--set {option.partition('.')[0]}.safetensors={str(not safetensors).lower()}, {local}"
            )
        return f"finds no weights of {name} in {folder}: complete it{get}, {local}"
    return None


def _parts(folder: Path) -> Iterator[tuple[str, Path]]:
    index = read_json(folder / _INDEX)
    if not isinstance(index, dict):
        raise DfkdError(f"{folder / _INDEX} holds no table of a pipeline's parts: give a whole copy of the model")
    for name, kind in index.items():
        if isinstance(kind, list) and None not in kind and name not in ("safety_checker", "feature_extractor"):
            yield name, folder / name


def read_config(part: Path) -> dict[str, Any]:
    """A network's configuration, from its folder.

    Raises:
        DfkdError: there is none that can be read.
    """
    file = part / "config.json"
    try:
        config = read_json(file)
    except FileNotFoundError:
        config = None
    if not isinstance(config, dict):
        raise DfkdError(f"{file} holds no configuration of a network: complete the local copy of the model")
    return config


@functools.lru_cache(maxsize=8)
def identity(folder: Path, model: str) -> str:
    """What is loaded, whatever it is called: a snapshot's repository and commit, or the hash of a folder's files."""
    if folder.parent.name == "snapshots":
        return f"{model}@{folder.name}"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(
                    path.relative_to(folder).as_posix().encode() + hashlib.file_digest(file, "sha256").digest()
                )
    return f"sha256:{digest.hexdigest()[:16]}"


def load_pretrained(kind: Any, folder: Path, device: torch.device, *, safetensors: bool, **more: Any) -> Any:
    """`kind.from_pretrained` of a folder, on the device, in half precision on a GPU.

    Args:
        kind: a class of diffusers or transformers.
        folder: from `find_model`.
        device: where it goes.
        safetensors: take weights in that format, or else .bin files, which can hold code.
        more: for `from_pretrained`.

    Raises:
        DfkdError: it cannot be loaded.
    """
    half = torch.float16 if device.type == "cuda" else torch.float32
    with quiet():
        try:
            loaded = kind.from_pretrained(
                str(folder),
                use_safetensors=safetensors,
                local_files_only=True,
                **{_dtype_word(): half},
                **more,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise DfkdError(
                f"'{folder}' cannot be loaded as {kind.__name__} ({first_line(error)}): name the folder of such a model"
            ) from error
        return loaded.to(device)


def _dtype_word() -> str:
    """Newer releases of diffusers warn of the old word and refuse both; older ones do not know the new one."""
    from diffusers.pipelines import pipeline_utils

    return "dtype" if hasattr(pipeline_utils, "_resolve_dtype") else "torch_dtype"


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, neither diffusers nor transformers prints progress, advice or warnings; errors are raised as ever."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity(50)  # `logging.CRITICAL`: warnings and the errors that are raised anyway stay silent
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
