"""Fine-tuning: what a run takes from its data and its weights, once, before it begins.

It is of a network that tells classes of photographs, finds structures in them, or writes reports of
cases. The configuration that it makes is whole: it stands in the workdir, and nothing has to be
found out again by those who load the network.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from retfm_jax.config import ExperimentConfig, ImageConfig, from_dict
from retfm_jax.config.stored_paths import located
from retfm_jax.console import say
from retfm_jax.data.cases import CaseData, MixedCases, open_cases
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.kinds.base import Told
from retfm_jax.data.labeled import LabeledData, LabeledSource, open_labeled
from retfm_jax.data.samples import choose_text
from retfm_jax.data.segmented import SegmentedData, SegmentedSource, open_segmented
from retfm_jax.data.sources import scan
from retfm_jax.data.tasks import modality_of
from retfm_jax.data.words import LEAST, UNKNOWN, count_words, make_vocabulary
from retfm_jax.decisions import FILE, write_decisions
from retfm_jax.errors import UserError
from retfm_jax.evaluation.decision_fitting import fit_decisions, fit_mask_decisions
from retfm_jax.evaluation.metrics.grades import class_order
from retfm_jax.files import PathLike, as_path, read_json
from retfm_jax.interop.initial import FREE
from retfm_jax.knowledge.prompts import MODALITIES
from retfm_jax.methods import make_method
from retfm_jax.model import load
from retfm_jax.runtime import distributed
from retfm_jax.runtime.checkpoints import FOLDER as CHECKPOINTS
from retfm_jax.runtime.checkpoints import whole_steps
from retfm_jax.training.requirements import check_splits

#: What stands behind the tower, by what the network tells: low-rank updates do not replace it.
_HEADS: dict[Told, tuple[str, ...]] = {
    "classes": ("head",),
    "structures": ("decoder",),
    "reports": ("captioner", "places"),
}
#: Entries of the preprocessing that decide what of a photograph is seen: a network that finds
#: structures takes them from its configuration, as its tower takes images of any size.
_GEOMETRY = ("size", "resize")
#: Digits of a prevalence: the same run on another machine has the same configuration.
_DIGITS = 6


class Prepared(NamedTuple):
    """A run that is ready to begin.

    Attributes:
      config: with everything that data and weights decide.
      data: the photographs with their labels or masks, or the cases, opened: "train" and, where it
        is evaluated, "validation".
      said: sentences for the user.
    """

    config: ExperimentConfig
    data: LabeledData | SegmentedData | CaseData
    said: tuple[str, ...]


def prepare(config: ExperimentConfig, workdir: PathLike) -> Prepared:
    """Fills what the network tells, prevalence, words, tower and preprocessing.

    Args:
      config: the experiment, of a method whose network has classes or structures or writes reports.
      workdir: folder of the run; one that resumes has its tower and its preprocessing from there,
        also where the weights that it began with are gone.

    Raises:
      UserError: the data cannot be used (see `labeled.open_labeled`, `segmented.open_segmented`,
        `cases.open_cases`), the weights cannot be read, or the config contradicts them.
    """
    stored = _stored(config, workdir)
    what = told(config)
    if what == "reports":
        config, data, said = _with_words(config, stored)
    else:
        read = _with_classes if what == "classes" else _with_structures
        config, data, said = read(config)
    form, image, found = _tower(config, stored)
    image, of_modality = _of_modality(config, image, data)
    try:
        model = dataclasses.replace(config.model, **form)
    except ValueError as error:
        raise UserError(f"config.model does not fit the weights: {error}") from error
    config = dataclasses.replace(
        config,
        model=model,
        data=dataclasses.replace(config.data, image=image),
        lora=_with_head(config),
    )
    return Prepared(config, data, (*said, *found, *of_modality))


def told(config: ExperimentConfig) -> Told | None:
    """Names what the network itself tells of photographs or cases; None: nothing.

    Args:
      config: the experiment.
    """
    return get_kind(make_method(config.method, config.model).sample_kind).told


def _stored(config: ExperimentConfig, workdir: PathLike) -> ExperimentConfig | None:
    """The experiment of a run that resumes; None of one that begins."""
    workdir = as_path(workdir)
    if not whole_steps(workdir / CHECKPOINTS):
        return None
    stored = from_dict(located(read_json(workdir / "config.json"), workdir))
    if told(stored) != told(config):
        raise UserError(f"{workdir} holds a run of method {stored.method}; take another workdir")
    return stored


def _with_classes(config: ExperimentConfig) -> Prepared:
    """The classes, what they are to each other, and their prevalence."""
    classes = _stated(config, "classes", "classes")
    outcome = _stated(config, "outcome", "outcome")
    data = dataclasses.replace(config.data, classes=classes, outcome=outcome)
    opened = open_labeled(data, _splits(config))
    opened, said = _ordered(opened, config.data.classes or config.model.classes)
    train = opened.sources["train"]
    model = dataclasses.replace(
        config.model,
        classes=opened.classes,
        outcome=opened.outcome,
        prevalence=tuple(round(float(share), _DIGITS) for share in train.prevalence),
    )
    data = dataclasses.replace(data, classes=opened.classes, outcome=opened.outcome)
    counts = ", ".join(
        f"{name} {int(count)}"
        for name, count in zip(opened.classes, (train.labels > 0).sum(0), strict=True)
    )
    what = f"{opened.outcome}, in training: {counts}; photographs: {_sizes(opened)}"
    config = dataclasses.replace(config, data=data, model=model)
    return Prepared(config, opened, (f"classes: {what}", *opened.said, *said))


def _with_structures(config: ExperimentConfig) -> Prepared:
    """The structures, in the order of the masks."""
    data = dataclasses.replace(config.data, classes=_stated(config, "classes", "structures"))
    opened = open_segmented(data, _splits(config))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(data, classes=opened.structures),
        model=dataclasses.replace(config.model, structures=opened.structures),
    )
    what = f"{', '.join(opened.structures)}; photographs: {_sizes(opened)}"
    return Prepared(config, opened, (f"structures: {what}", *opened.said))


def _with_words(config: ExperimentConfig, stored: ExperimentConfig | None) -> Prepared:
    """The words of reports: those given, those that the weights write, or the training reports'."""
    check_splits(config)
    opened, text = open_cases(config.data, _splits(config)), config.data.text
    _check_sizes(config)
    known, whose = _known_words(config, stored)
    source, mix = opened.sources["train"], config.data.mix
    if isinstance(source, MixedCases) and mix is not None and not mix.words:
        source = source.parts[0]
    reports = _reports(source, config.data.language)
    counted = count_words(reports, text.cleaning)
    words = known or make_vocabulary(counted)
    longest, least = text.context_length - 2, f"each at least {LEAST} times in training"
    said = [f"cases: {_sizes(opened)}; words: {len(words)}, {whose or least}"]
    share = 1 - sum(counted.words[word] for word in words) / max(counted.words.total(), 1)
    if share > 0:
        said.append(f"{share:.2%} of the words of the training reports are written as {UNKNOWN}")
    if cut := counted.longer_than(longest):
        said.append(
            f"{cut} of {counted.lengths.total()} training reports have more than {longest} words "
            f"(up to {max(counted.lengths)}) and are cut: config.data.text.context_length takes in "
            "longer ones"
        )
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, text=dataclasses.replace(text, words=words)),
        model=dataclasses.replace(config.model, vocabulary=len(words) + 1),
    )
    return Prepared(config, opened, tuple(said))


def _check_sizes(config: ExperimentConfig) -> None:
    """Checks that the network takes the samples.

    Raises:
      UserError: a sample has more images or more words than it does.
    """
    method, data = make_method(config.method, config.model), config.data
    if method.most_images is not None and data.case_images > method.most_images:
        raise UserError(
            f"config.data.case_images {data.case_images} are more than the network tells apart, "
            f"{method.most_images}: raise config.model.places"
        )
    if data.text.context_length > method.longest_report:
        raise UserError(
            f"config.data.text.context_length {data.text.context_length} is more than the network "
            f"has positions, {method.longest_report}: raise config.model.captioner.positions"
        )


def _known_words(
    config: ExperimentConfig, stored: ExperimentConfig | None
) -> tuple[tuple[str, ...], str]:
    """Words that are not to be collected, and whose they are; () where there are none.

    Raises:
      UserError: words are given, and the run that resumes or the weights have others.
    """
    given = config.data.text.words
    if stored is not None:
        theirs, whose = stored.data.text.words, "the run's"
    elif config.init.weights is not None:
        model = load(config.init.weights)
        if given and not model.words:
            return given, "given"
        model.require_words()
        theirs, whose = model.words, "those of config.init.weights"
    else:
        return given, "given" if given else ""
    if given and given != theirs:
        raise UserError(
            f"config.data.text.words are {len(given)} other words than {whose} ({len(theirs)}): "
            "leave them out, or begin a new run without these weights"
        )
    return theirs, whose


def _reports(source: Any, language: str) -> Iterator[str]:
    """The reports that training sees, of a mixed language all."""
    for texts in scan(len(source), source.report):
        if language == "mixed":
            yield from filter(None, texts.values())
        else:
            yield choose_text(texts, language)


def _splits(config: ExperimentConfig) -> tuple[str, ...]:
    return ("train", "validation") if evaluates(config) else ("train",)


def _sizes(data: LabeledData | SegmentedData | CaseData) -> str:
    return ", ".join(f"{split} {len(source)}" for split, source in data.sources.items())


def evaluates(config: ExperimentConfig) -> bool:
    """Tells whether a run looks at its validation split.

    Args:
      config: the experiment.
    """
    return bool(config.train.evaluate_every or config.train.evaluate_epochs)


def _stated(config: ExperimentConfig, entry: str, called: str) -> Any:
    """What the config says in an entry of its `data`, or in `called` of its `model`."""
    of_data, of_model = getattr(config.data, entry), getattr(config.model, called)
    if of_data and of_model and of_data != of_model:
        raise UserError(
            f"config.data.{entry} and config.model.{called} differ ({of_data!r}, {of_model!r}): "
            "give one of them"
        )
    return of_data or of_model


def _ordered(data: LabeledData, named: Sequence[str]) -> tuple[LabeledData, tuple[str, ...]]:
    """Puts grades into their order, and says what looks like grades and is not taken for them.

    Raises:
      UserError: the classes are said to be grades, and nothing tells their order.
    """
    grades = data.outcome == "grades"
    if named or data.ordered:
        return data, (f"grades: {', '.join(data.classes)}",) if grades else ()
    order = class_order(data.classes)
    if grades and order is None and len(data.classes) > 2:
        raise UserError(
            f"nothing tells the order of the grades {', '.join(data.classes)}: name them in "
            "config.data.classes from the lowest on"
        )
    if order is None:
        return data, ()
    if grades:
        return data.reordered(order.classes), (f"grades: {order} ({order.known_from})",)
    advice = "config.data.outcome=grades learns their order, too"
    like = f"these classes look like grades, {order} ({order.known_from}); {advice}"
    return data, (like,) if data.outcome == "exclusive" else ()


def _tower(
    config: ExperimentConfig, stored: ExperimentConfig | None
) -> tuple[dict[str, Any], ImageConfig, tuple[str, ...]]:
    """Entries of `config.model` that say the form of the tower, and the preprocessing.

    What the config changes wins where a tower can be used in several ways.
    """
    if stored is not None:
        form = {name: getattr(stored.model, name) for name in _FORM}
        return _adopted(config, form, stored.data.image, ())
    source = config.init.image
    if config.init.weights is not None or source is None:
        said = (
            ()
            if source or config.init.weights
            else ("config.init.image names no weights: the image tower learns from the beginning",)
        )
        return {}, _sized(config.data.image, config.model.image), said
    if config.init.text is not None:
        raise UserError(f"config.init.text is a text tower, and a {config.method} has none")
    model = load(source)
    theirs = model.config.model
    if not hasattr(theirs, "image"):
        raise UserError(f"config.init.image: {source} has no image tower")
    form = {
        "image": theirs.image,
        "embed_dim": getattr(theirs, "embed_dim", None),
        "layout": getattr(theirs, "layout", "openai"),
        "prefix": getattr(theirs, "prefix", "visual."),
    }
    return _adopted(config, form, model.data_config.image, model.notes)


#: Entries of `config.model` that the weights decide.
_FORM = ("image", "embed_dim", "layout", "prefix")


def _adopted(
    config: ExperimentConfig, form: dict[str, Any], image: ImageConfig, said: tuple[str, ...]
) -> tuple[dict[str, Any], ImageConfig, tuple[str, ...]]:
    """The form and preprocessing of weights, with what the config says otherwise."""
    asked, theirs = config.model.image, form["image"]
    # The size of images is that of `config.data.image`, below.
    own = {
        field.name: getattr(asked, field.name)
        for field in dataclasses.fields(asked)
        if field.name in FREE and field.name != "image_size"
        if getattr(asked, field.name) != field.default
    }
    known = {field.name for field in dataclasses.fields(theirs)}
    lost = sorted(own.keys() - known)
    if lost:
        said = (*said, f"a {theirs.kind} tower has no {', '.join(lost)}: without effect")
    changed = _changed(config.data.image)
    if told(config) == "structures":
        changed |= {name: getattr(config.data.image, name) for name in _GEOMETRY}
    if "size" in changed and "image_size" in known:
        own["image_size"] = _fitting(changed["size"], theirs)
    try:
        tower = dataclasses.replace(
            theirs, **{name: value for name, value in own.items() if name in known}
        )
    except ValueError as error:
        raise UserError(f"config.model.image does not fit the weights: {error}") from error
    image = dataclasses.replace(image, **changed)
    return form | {"image": tower}, _sized(image, tower), said


def _of_modality(
    config: ExperimentConfig,
    image: ImageConfig,
    data: LabeledData | SegmentedData | CaseData,
) -> tuple[ImageConfig, tuple[str, ...]]:
    """The preprocessing with the modality that the config or else the data say, and a sentence.

    Of what a tower was trained on before it says nothing.
    """
    modality, train = config.data.image.modality, data.sources["train"]
    if modality == "cfp" and train.kind != "case":
        found = modality_of(train)
        modality = found if found in MODALITIES else "cfp"
    if modality == "cfp":
        return dataclasses.replace(image, modality="cfp"), ()
    said = f"images: {modality}, of which quality is not measured"
    if modality == "oct" and image.field_of_view == "crop":
        image = dataclasses.replace(image, field_of_view="whole")
        said += "; no part of a scan is a lit disc: config.data.image.field_of_view is whole"
    return dataclasses.replace(image, modality=modality), (said,)


def _fitting(size: int, tower: Any) -> int:
    """An image size, of whole patches where the tower has patches."""
    patch = getattr(tower, "patch_size", 1)
    if size % patch:
        below = max(size // patch, 1) * patch
        raise UserError(
            f"config.data.image.size {size} is no multiple of {patch}, the side of the weights' "
            f"patches: set it and config.model.image.image_size to {below} or {below + patch}"
        )
    return size


def _changed(image: ImageConfig) -> dict[str, Any]:
    """Entries of the preprocessing that the config sets: those unlike the defaults."""
    return {
        field.name: getattr(image, field.name)
        for field in dataclasses.fields(image)
        if getattr(image, field.name) != field.default
    }


def _sized(image: ImageConfig, tower: Any) -> ImageConfig:
    """The preprocessing with images as large as the tower takes them."""
    return dataclasses.replace(image, size=getattr(tower, "image_size", image.size))


def _with_head(config: ExperimentConfig) -> Any:
    """Low-rank updates beside which the head or decoder is trained as a whole."""
    lora, what = config.lora, told(config)
    heads = () if what is None else _HEADS[what]
    if lora is None or any(pattern.startswith(heads) for pattern in lora.trained):
        return lora
    there = tuple(head for head in heads if head != "places" or config.model.images == "all")
    return dataclasses.replace(lora, trained=(*lora.trained, *there))


def fit(workdir: PathLike, validation: LabeledSource | SegmentedSource) -> None:
    """Fits the decisions of a finished run's best network, and writes them into its workdir.

    Called on every process, of which the first one does it.

    Args:
      workdir: of the run.
      validation: its validation split.

    Raises:
      UserError: see `decision_fitting`, or they cannot be written.
    """
    if jax.process_index() == 0:
        model = load(workdir)
        if isinstance(validation, SegmentedSource):
            write_decisions(workdir, fit_mask_decisions(model, validation, progress=False))
        else:
            write_decisions(workdir, fit_decisions(model, validation, progress=False))
        say(f"decisions for new photographs, fitted on validation: {as_path(workdir) / FILE}")
    distributed.barrier("decisions", timeout=3600)


def tell(sentences: Sequence[str]) -> None:
    """Prints what was found, on process 0.

    Args:
      sentences: see `Prepared.said`.
    """
    if jax.process_index() == 0 and sentences:
        say(*sentences)
