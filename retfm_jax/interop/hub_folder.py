"""A network as a folder for the Hugging Face Hub, which `retfm_jax.load` reads to the same bits.

It holds `model.safetensors` under published names, `config.json` with the experiment, what is known
of the weights and of the reports' wording, `classes.json` with the decisions of a network with
classes, `structures.json` with those of a network that finds structures, `preprocessor_config.json`
where transformers has terms for the preprocessing, the tokenizer of a text tower, and a model card.
Nothing in it is a path of the machine that wrote it; nothing that is read from it leads out of it
or names code to import.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from retfm_jax.config import DataConfig, ExperimentConfig, InitConfig, from_dict, to_dict
from retfm_jax.data.text import BUNDLED, save_tokenizer
from retfm_jax.decisions import Decisions
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path, is_remote, read_json, whole_folder, write_json
from retfm_jax.interop.formats.base import CLASSES, STRUCTURES
from retfm_jax.interop.huggingface import PREPROCESSOR, image_processor
from retfm_jax.interop.model_card import model_card
from retfm_jax.interop.pickles import printable
from retfm_jax.interop.sources import is_place
from retfm_jax.interop.state_dict import from_state_dict, to_state_dict
from retfm_jax.interop.weights import read_tensors, write_tensors
from retfm_jax.interop.zoo import Origin
from retfm_jax.knowledge.wording import ReportWording
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.methods import make_method
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.plugins import is_outside

#: Of classes, or of structures.
AnyDecisions = TypeVar("AnyDecisions", Decisions, MaskDecisions)

#: The name of this format among those of exports.
HUB_FOLDER = "hub_folder"
#: Under which `config.json` holds what is ours; other programs' entries may stand beside it.
_KEY, _FORMAT = "retfm_jax", 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
#: Stands for the folder itself, as the place of the tokenizer.
_HERE = "{folder}"
_TOKENIZER = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Stored(NamedTuple):
    """Network of a folder.

    Attributes:
      method: with its sizes.
      params, state: its arrays.
      config: the experiment, without paths of the machine that wrote it.
      wording: of the reports that it was trained with; None where it is unknown.
      notes: sentences on where the weights come from.
      origin: of imported weights; None of those of a training run.
      decisions: of the classes; None of a network without classes.
      mask_decisions: of the structures; None of a network without structures.
    """

    method: Method
    params: Params
    state: MethodState
    config: ExperimentConfig
    wording: ReportWording | None = None
    notes: tuple[str, ...] = ()
    origin: Origin | None = None
    decisions: Decisions | None = None
    mask_decisions: MaskDecisions | None = None


def write_hub_folder(
    folder: PathLike, network: Stored, evaluation: Mapping[str, Any] | None = None
) -> None:
    """Writes a network and its model card, as a whole or not at all.

    Args:
      folder: is made; nothing may be in it.
      network: what is written, which stays as it is.
      evaluation: document of an evaluation for the card; None for none.

    Raises:
      UserError: the folder is not empty or cannot be written, the tokenizer cannot be read, or the
        evaluation is none.
    """
    config, origin = public(network.config), public_origin(network.origin)
    tokenizer = network.config.data.text.tokenizer
    texts = network.method.text is not None
    stored = config
    if texts and tokenizer != BUNDLED:
        stored = _with_tokenizer(config, _HERE)
    content: dict[str, Any] = {"format": _FORMAT, "config": to_dict(stored)}
    content["notes"] = list(network.notes)
    if origin is not None:
        content["origin"] = to_dict(origin)
    if network.wording is not None:
        content["wording"] = network.wording.to_json()
    decisions = network.decisions and public_decisions(network.decisions)
    mask_decisions = network.mask_decisions and public_decisions(network.mask_decisions)
    card = model_card(
        config,
        origin,
        network.notes,
        parameters=sum(leaf.size for leaf in _leaves(network.params)),
        began_with=began_with(network.config.init),
        evaluation=evaluation,
        decisions=decisions,
        mask_decisions=mask_decisions,
    )
    tensors = to_state_dict(network.method, network.params, network.state)
    with whole_folder(folder, last=_CONFIG) as made:
        write_tensors(made / _WEIGHTS, tensors)
        if texts:
            save_tokenizer(network.config.data.text, made)
        processor = image_processor(config.data.image)
        if processor is not None and mask_decisions is None:
            write_json(made / PREPROCESSOR, processor)
        if decisions is not None:
            write_json(made / CLASSES, decisions.to_json())
        if mask_decisions is not None:
            write_json(made / STRUCTURES, mask_decisions.to_json())
        (made / "README.md").write_text(card, encoding="utf-8")
        write_json(made / _CONFIG, {"library_name": _KEY, _KEY: content})


def read_hub_folder(path: PathLike, method: str | None = None) -> Stored | None:
    """Reads what `write_hub_folder` wrote; None of any other folder or file.

    Args:
      path: the folder, or the `model.safetensors` in it.
      method: that was asked for; None: what the folder says, unless that is code from outside this
        package.

    Raises:
      UserError: a file is missing, damaged, or leads out of the folder; it is of a later version;
        it holds another method's network, or names a method from outside this package that was not
        asked for.
    """
    path = as_path(path)
    folder = path if path.is_dir() else path.parent
    if path not in (folder, folder / _WEIGHTS) or not (folder / _CONFIG).is_file():
        return None
    read = read_json(_inside(folder, _CONFIG))
    content = read.get(_KEY) if isinstance(read, Mapping) else None
    if not isinstance(content, Mapping):
        return None
    where = str(folder / _CONFIG)
    if content.get("format") != _FORMAT:
        raise UserError(
            f"{where} is of format {content.get('format')!r:.40}, and this version of retfm_jax "
            f"reads {_FORMAT}: install a later one"
        )
    config = _config(content.get("config"), method, folder)
    built = make_method(config.method, config.model)
    tensors = read_tensors(_inside(folder, _WEIGHTS))
    params, state = from_state_dict(built, tensors, where=str(folder / _WEIGHTS))
    wording, origin, notes = (content.get(key) for key in ("wording", "origin", "notes"))
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise UserError(f"{where}: notes is no list of sentences")
    return Stored(
        built,
        params,
        state,
        config,
        None if wording is None else ReportWording.from_json(wording, where),
        tuple(notes),
        None if origin is None else Origin.from_json(origin, where),
        _decisions(folder, CLASSES, Decisions),
        _decisions(folder, STRUCTURES, MaskDecisions),
    )


def _decisions(folder: Path, name: str, kind: type[AnyDecisions]) -> AnyDecisions | None:
    if not (folder / name).is_file():
        return None
    return kind.from_json(read_json(_inside(folder, name)), str(folder / name))


def _config(values: Any, method: str | None, folder: Path) -> ExperimentConfig:
    """The experiment of a folder; nothing that it names is followed or imported."""
    named = values.get("method") if isinstance(values, Mapping) else None
    if method is not None and named != method:
        raise UserError(f"{folder} holds a {printable(str(named), 80)} network, not a {method} one")
    if is_outside(named) and method is None:
        raise UserError(
            f"{folder} names the method {printable(str(named), 80)!r}, which is code from outside "
            "this package and is not imported because a folder says so: if you know it, name it "
            "yourself as the method"
        )
    config = from_dict(values)
    tokenizer = config.data.text.tokenizer
    if tokenizer == _HERE:
        for name in _TOKENIZER:
            _inside(folder, name)
        tokenizer = str(folder.absolute() if isinstance(folder, pathlib.Path) else folder)
    elif tokenizer != BUNDLED:
        raise UserError(
            f"{folder / _CONFIG} names the tokenizer {printable(tokenizer, 80)!r}, which is not in "
            "the folder: it is not read"
        )
    return _with_tokenizer(public(config), tokenizer)


def _inside(folder: Path, name: str) -> Path:
    """A file of a folder that somebody else made; links lead into the folder, or its cache.

    In the Hub's cache a snapshot's files are links to `blobs`, beside `snapshots`.
    """
    path = folder / name
    if is_remote(path):
        return path
    root = folder.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" else root
    if not pathlib.Path(path).resolve().is_relative_to(root):
        raise UserError(f"{path} is a link that leads out of its folder: it is not read")
    return path


def _with_tokenizer(config: ExperimentConfig, tokenizer: str) -> ExperimentConfig:
    text = dataclasses.replace(config.data.text, tokenizer=tokenizer)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, text=text))


def public(config: ExperimentConfig) -> ExperimentConfig:
    """Takes out paths: they are a user's own, and lead nowhere on another machine.

    Args:
      config: the experiment.
    """
    data, default = config.data, DataConfig()
    expert = data.expert
    if expert is not None:
        expert = dataclasses.replace(expert, dataset=_name(expert.dataset))
    curriculum = data.curriculum
    if curriculum is not None:
        texts = curriculum.descriptions
        if texts is not None:
            texts = dataclasses.replace(texts, dataset=_name(texts.dataset))
        curriculum = dataclasses.replace(curriculum, table=None, descriptions=texts)
    data = dataclasses.replace(
        data,
        dataset=_name(data.dataset),
        data_dir=default.data_dir,
        vocabulary=None,
        extend=(),
        expert=expert,
        curriculum=curriculum,
    )
    data = dataclasses.replace(
        data, text=dataclasses.replace(data.text, tokenizer=default.text.tokenizer)
    )
    return dataclasses.replace(config, data=data, init=InitConfig())


def _name(path: str) -> str:
    """A data set's own name, of its folder or its name."""
    return as_path(path).name or path.strip("/.") or "data"


def public_origin(origin: Origin | None) -> Origin | None:
    """Names a file that weights were imported from without its folder.

    Args:
      origin: of weights; None stays None.
    """
    if origin is None or is_place(origin.source):
        return origin
    return dataclasses.replace(origin, source=_name(origin.source))


def public_decisions(decisions: AnyDecisions) -> AnyDecisions:
    """Names the data set that decisions were fitted on without its folder.

    Args:
      decisions: of a network's classes or structures.
    """
    said = dict(decisions.fitted_on)
    if "dataset" in said:
        said["dataset"] = _name(str(said["dataset"]))
    return dataclasses.replace(decisions, fitted_on=said)


def began_with(init: InitConfig) -> tuple[str, ...]:
    """Names what a training began with: addresses, names of the zoo, or names of files.

    Args:
      init: of the experiment.
    """
    given = (init.weights, init.image, init.text)
    return tuple(each if is_place(each) else _name(each) for each in given if each is not None)


def _leaves(params: Params) -> list[Any]:
    import jax

    return jax.tree.leaves(params)
