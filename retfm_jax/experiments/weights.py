"""Published weights into workdirs, and networks of workdirs under published names."""

import json
from collections.abc import Mapping
from typing import Any

from retfm_jax.config import ExperimentConfig
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import (
    Path,
    PathLike,
    as_path,
    check_writable,
    is_remote,
    read_json,
    write_json,
)
from retfm_jax.interop.formats import ABOUT
from retfm_jax.interop.hub_folder import HUB_FOLDER, write_hub_folder
from retfm_jax.interop.huggingface import CHINESE_CLIP, write_chinese_clip
from retfm_jax.interop.sources import is_place
from retfm_jax.interop.weights import Container, check_suffix, write_tensors
from retfm_jax.interop.word_files import words_beside, write_words
from retfm_jax.methods import method_names
from retfm_jax.model import RetinalModel, load_checkpoint, load_weights, to_torch
from retfm_jax.runtime.checkpoints import (
    FOLDER,
    find_checkpoint,
    nameable,
    remove_half_written,
    save_network,
)


def import_weights(
    weights: PathLike,
    method: str | None,
    workdir: PathLike,
    text_num_heads: int | None = None,
    *,
    zoo: str | None = None,
    pooling: str | None = None,
    tokenizer: str | None = None,
    words: PathLike | None = None,
) -> RetinalModel:
    """Makes a workdir of published weights.

    Args:
      weights: .pt, .pth, .bin, .ckpt or .safetensors file, a Hugging Face folder, `hf:owner/name`,
        or a name of the zoo.
      method: whose network it is; None: what the tensors' names tell.
      workdir: new folder to write.
      text_num_heads: of the text tower; None: heads are 64 wide.
      zoo, pooling, tokenizer, words: see `model.load_weights`.

    Raises:
      UserError: the workdir is not empty, or the weights are not those of such a network.
    """
    workdir = nameable(workdir)
    _refuse_taken(workdir)
    model = load_weights(
        weights, method, text_num_heads, zoo=zoo, pooling=pooling, tokenizer=tokenizer, words=words
    )
    place = str(weights) if model.origin is None else model.origin.source
    meta = model.meta | {"imported_from": place}
    # The checkpoint comes last: without it the workdir is none, and the same command resumes.
    config = workdir / "config.json"
    if config.exists() and read_json(config) != json.loads(json.dumps(meta["config"])):
        raise _taken(workdir)
    write_json(config, meta["config"])
    save_network(workdir / FOLDER / "0", model.params, model.state.batch_stats, meta)
    return model


def _refuse_taken(workdir: Path) -> None:
    """Refuses a workdir that holds anything but what a killed import leaves."""
    if not workdir.exists():
        return
    if workdir.is_dir() and {path.name for path in workdir.iterdir()} <= {"config.json", FOLDER}:
        remove_half_written(workdir / FOLDER)
        if not (workdir / FOLDER).is_dir() or not any((workdir / FOLDER).iterdir()):
            return
    raise _taken(workdir)


def _taken(workdir: Path) -> UserError:
    return UserError(f"workdir {workdir} is not empty: give a new folder")


def export(
    workdir: PathLike,
    to: str,
    out: PathLike,
    container: Container = "checkpoint",
    evaluation: PathLike | None = None,
) -> int | None:
    """Writes a workdir's network for the published code, or for the Hugging Face Hub.

    The words of a network that writes reports go beside its file; see `interop.word_files`.

    Args:
      workdir: of the network, or its checkpoint folder.
      to: the network's own method, `CHINESE_CLIP` or `HUB_FOLDER`.
      out: .pt, .pth or .safetensors file; of `CHINESE_CLIP` and `HUB_FOLDER` a new folder.
      container: of a .pt: "checkpoint" (with epoch, step and `module.` names) or "state_dict".
      evaluation: JSON file of an evaluation, for the model card of `HUB_FOLDER`.

    Returns:
      how many tensors the file holds; None for a folder.

    Raises:
      UserError: the network has no such form, or nothing can be written there.
    """
    folders = (CHINESE_CLIP, HUB_FOLDER)
    known = [*method_names(), *folders, *ABOUT]
    if to not in known and ":" not in to:
        meant = did_you_mean(to, known)
        raise UserError(f"to {to}: give one of {', '.join(known)}{meant}")
    folder = to in folders
    if evaluation is not None and to != HUB_FOLDER:
        raise UserError(f"evaluation is for the model card of {HUB_FOLDER}, and {to} has none")
    document = None if evaluation is None else read_json(evaluation)
    out = as_path(out) if folder else check_suffix(out)
    check_writable(out / "config.json" if folder else out)
    model, meta = load_checkpoint(workdir)
    _refuse_own_source(out, workdir, model.config, meta)
    if to == HUB_FOLDER:
        write_hub_folder(out, model.stored, document)
        return None
    if folder:
        write_chinese_clip(out, model.method, model.params, model.state, model.data_config)
        return None
    method = model.config.method
    if to != method:
        raise UserError(f"{workdir} holds a {method} network; export it to {method}")
    tensors = to_torch(model)
    if model.words:
        write_words(words_beside(out), model.data_config.text)
    write_tensors(out, tensors, container=container)
    return len(tensors)


def _refuse_own_source(
    out: Path, workdir: PathLike, config: ExperimentConfig, meta: Mapping[str, Any]
) -> None:
    """Refuses to write an export over what the network came from, or among its checkpoints."""
    init = config.init
    sources = (meta.get("imported_from"), init.weights, init.image, init.text)
    for source in filter(None, sources):
        if not is_place(source) and _real(source) == _real(out):
            raise UserError(f"out {out} is the file that the network began with: give another name")
    if _real(find_checkpoint(workdir)) in (_real(out), *_real(out).parents):
        raise UserError(f"out {out} is within a checkpoint: give another folder")


def _real(path: PathLike) -> Path:
    return as_path(path) if is_remote(path) else as_path(path).resolve()
