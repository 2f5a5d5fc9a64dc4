"""Prompts for a text tower: those of classes for zero-shot, and KeepFIT's."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.knowledge.vocabulary import LANGUAGES, Condition, Vocabulary, load_vocabulary
from retfm_jax.knowledge.wording import SLOT, ReportWording

_EYES = {
    "en": {None: "both eyes", "left": "left eye", "right": "right eye"},
    "zh": {None: "双眼", "left": "左眼", "right": "右眼"},
}


class Wording(NamedTuple):
    """Names of a modality's images.

    Attributes:
      image: one of them, as in "A [image] of drusen".
      seen: what it shows, as in "the [seen] shows drusen".
      findings: what is found, as in "[findings] consistent with glaucoma".
      normal: what one shows where all is well, as in "A [image] of [normal]".
    """

    image: str
    seen: str
    findings: str
    normal: str


#: Color fundus photography, fluorescein angiography, optical coherence tomography. An attribute of
#: a record that has such a name says what it is; without one it is a color photograph.
MODALITIES = ("cfp", "ffa", "oct")

# "mixed" is said of a set with several modalities.
_WORDING = {
    "cfp": {
        "en": Wording("fundus photograph", "fundus", "fundus findings", "normal fundus"),
        "zh": Wording("眼底照片", "眼底", "眼底表现", "正常眼底"),
    },
    "ffa": {
        "en": Wording(
            "fluorescein angiogram", "angiogram", "angiographic findings", "normal fundus"
        ),
        "zh": Wording("荧光素眼底血管造影图像", "造影", "造影表现", "正常眼底"),
    },
    "oct": {
        "en": Wording("retinal OCT scan", "OCT scan", "OCT findings", "normal retina"),
        "zh": Wording("视网膜OCT图像", "OCT图像", "OCT表现", "正常视网膜"),
    },
    "mixed": {
        "en": Wording("retinal image", "image", "findings", "normal fundus"),
        "zh": Wording("视网膜图像", "图像", "表现", "正常眼底"),
    },
}

# Written as reports are: a side heading, then the finding. A disease is concluded, a finding is
# seen, a state simply is; Chinese uses another verb for each.
_TEMPLATES = {
    ("en", "disease"): (
        "{Eye}: {name}.",
        "{Eye}: {findings} consistent with {name}.",
        "{Eye}: signs of {name}.",
    ),
    ("en", "finding"): (
        "{Eye}: {name}.",
        "{Eye}: {name} on the {image}.",
        "{Eye}: the {seen} shows {name}.",
    ),
    ("en", "state"): ("{Eye}: {name}.", "{Eye}: the {image} shows {name}."),
    ("zh", "disease"): ("{eye}：{name}。", "{eye}：{findings}符合{name}。", "{eye}诊断为{name}。"),
    ("zh", "finding"): ("{eye}：{name}。", "{eye}：可见{name}。", "{eye}{seen}可见{name}。"),
    ("zh", "state"): ("{eye}：{name}。", "{eye}{image}：{name}。"),
}
# A patient's report does not always name a side.
_PATIENT_TEMPLATES = {
    ("en", "disease"): ("{Name}.",),
    ("en", "finding"): ("{Name}.",),
    ("en", "state"): ("{Name}.",),
    ("zh", "disease"): ("{name}。",),
    ("zh", "finding"): ("可见{name}。",),
    ("zh", "state"): ("{name}。",),
}
_NORMAL = {
    "en": ("{Eye}: normal {seen}.", "{Eye}: no abnormality seen.", "{Eye}: the {seen} is normal."),
    "zh": ("{eye}：正常{seen}。", "{eye}：{seen}未见明显异常。", "{eye}{seen}未见异常。"),
}

_KNOWLEDGE_TEMPLATES = {"en": "A {image} of {name}", "zh": "{name}的{image}"}
_TRAINING_TEMPLATES = {
    "en": "A {attribute} {image} of {name}",
    "zh": "{name}的{attribute}{image}",
}


class SampledPrompt(NamedTuple):
    """A training text and the category that it was sampled for.

    Attributes:
      text: the prompt.
      category: equal where prompts are positives of each other.
    """

    text: str
    category: str


def _wording(modality: str, language: str) -> Wording:
    if language not in LANGUAGES:
        raise UserError(f"prompts exist in {' and '.join(LANGUAGES)}, not in {language!r}")
    if modality not in _WORDING:
        raise UserError(f"modality {modality!r}: there are {', '.join(_WORDING)}")
    return _WORDING[modality][language]


def split_modality(attributes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Splits a record's attributes into the modality and the others.

    Args:
      attributes: words of a record, in any case.

    Returns:
      the first name of `MODALITIES` among them, "cfp" without one; and all that are none.
    """
    modalities = [name.lower() for name in attributes if name.lower() in MODALITIES]
    others = tuple(name for name in attributes if name.lower() not in MODALITIES)
    return (modalities[0] if modalities else "cfp"), others


def joint_modality(records: Iterable[Sequence[str]]) -> str:
    """Modality of images together: that of all of them, or "mixed".

    Args:
      records: the attributes of each record.
    """
    found = {split_modality(attributes)[0] for attributes in records}
    return found.pop() if len(found) == 1 else "mixed"


def _plain_name(category: str) -> str:
    return category.replace("_", " ").strip()


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def class_prompts(
    condition_id: str,
    language: str,
    eye: str | None = None,
    vocabulary: Vocabulary | None = None,
    modality: str = "cfp",
    wording: ReportWording | None = None,
) -> tuple[str, ...]:
    """Texts that stand for a class at zero-shot time, without their weights.

    Args:
      condition_id, language, eye, vocabulary, modality, wording: see `weighted_prompts`.

    Raises:
      UserError: the language, the eye or the modality is unknown.
    """
    prompts = weighted_prompts(condition_id, language, eye, vocabulary, modality, wording)
    return tuple(prompt.text for prompt in prompts)


class WeightedPrompt(NamedTuple):
    """A text that stands for a class, and its share of the class's embedding.

    Attributes:
      text: the prompt.
      weight: share of the class's embedding, above 0; those of a class sum to 1.
    """

    text: str
    weight: float


#: Prompts of a class: (class name, language, "left", "right" or None for no eye) -> texts, which
#: count alike, or texts with weights.
Prompts = Callable[[str, str, str | None], Sequence[str | WeightedPrompt]]

#: How a class is put into words, see `prompts_of`.
PROMPT_STYLES = ("report", "name", "knowledge")


def weighted_prompts(
    condition_id: str,
    language: str,
    eye: str | None = None,
    vocabulary: Vocabulary | None = None,
    modality: str = "cfp",
    wording: ReportWording | None = None,
) -> tuple[WeightedPrompt, ...]:
    """Texts that stand for a class at zero-shot time, and their weights, which sum to 1.

    Where it is known how the training reports speak, these are the terms that affirm the class or
    a case of it, by their frequency, in the reports' own sentences. Otherwise, and for classes
    that those reports never speak of, they are templates in the style of reports, with equal
    weights. A class that the vocabulary does not know is spoken of by its own name.

    Args:
      condition_id: an id (or a name) of the vocabulary, or any class name.
      language: "en" or "zh".
      eye: "left" or "right" for the text of one eye, None for the patient's.
      vocabulary: the bundled one where None.
      modality: of the images, one of `MODALITIES`, or "mixed".
      wording: of the reports that the network was trained with; None where it is unknown.

    Raises:
      UserError: the language, the eye or the modality is unknown.
    """
    wordings = _wording(modality, language)
    words = wordings._asdict()
    if eye not in _EYES[language]:
        raise UserError(f"eye must be 'left', 'right' or None, not {eye!r}")
    vocabulary = vocabulary or load_vocabulary()
    condition = vocabulary.find(condition_id)
    if condition is not None and wording is not None:
        forms = wording.class_forms(condition.id, language, vocabulary)
        frames = wording.sentences(language, eye)
        if forms and frames:
            return tuple(
                WeightedPrompt(frame.text.replace(SLOT, form.text), frame.weight * form.weight)
                for form in forms
                for frame in frames
            )
    name = _name(condition, language, wordings) if condition else _plain_name(condition_id)
    kind = condition.kind if condition else "finding"
    if condition is not None and condition.id == "normal":
        templates = _NORMAL[language]
    else:
        templates = _TEMPLATES[language, kind]
    if eye is None:
        templates = _PATIENT_TEMPLATES[language, kind] + templates
    side = _EYES[language][eye]
    words |= {"eye": side, "Eye": _sentence_case(side), "name": name, "Name": _sentence_case(name)}
    weight = 1 / len(templates)
    return tuple(WeightedPrompt(text.format_map(words), weight) for text in templates)


def _name(condition: Condition, language: str, wording: Wording) -> str:
    return wording.normal if condition.id == "normal" else condition.name[language]


def descriptions(
    condition: Condition, language: str, vocabulary: Vocabulary, modality: str = "cfp"
) -> tuple[str, ...]:
    """Describes what experts see of a condition on images of a modality.

    Args:
      condition: one of the vocabulary.
      language: "en" or "zh".
      vocabulary: tells the findings that are signs of it.
      modality: one of `MODALITIES`; of angiograms nothing is said.

    Returns:
      its signs, then the names of its typical findings that such images show, each once.
    """
    seen = condition.seen_on(modality)
    findings = (vocabulary[finding] for finding in vocabulary.findings_of(condition.id))
    names = (each.name[language] for each in findings if each.seen_on(modality) is not None)
    return tuple(dict.fromkeys((*(seen or {language: ()})[language], *names)))


def knowledge_prompts(
    condition: str,
    language: str = "en",
    vocabulary: Vocabulary | None = None,
    modality: str = "cfp",
) -> tuple[str, ...]:
    """KeepFIT's prompts at inference with domain knowledge: the name, then each description.

    The class embedding is the mean over them; the first alone is the prompt without domain
    knowledge. A category that the vocabulary does not know has only its own name, and so has
    every one on angiograms, of which no description speaks.

    Args:
      condition: an id or a name of the vocabulary, or any category name.
      language: "en" or "zh".
      vocabulary: the bundled one where None.
      modality: of the images, one of `MODALITIES`, or "mixed".

    Raises:
      UserError: the language or the modality is unknown.
    """
    wording = _wording(modality, language)
    image, phrases = wording.image, _phrases(condition, language, vocabulary, modality)
    template = _KNOWLEDGE_TEMPLATES[language]
    return tuple(template.format(image=image, name=phrase) for phrase in phrases)


def _phrases(
    category: str, language: str, vocabulary: Vocabulary | None, modality: str
) -> tuple[str, ...]:
    """What a category can be called: its name, then what experts see of it."""
    vocabulary = vocabulary or load_vocabulary()
    known = vocabulary.find(category)
    if known is None:
        return (_plain_name(category),)
    # Most images of a set with several modalities are fundus photographs.
    shown = "cfp" if modality == "mixed" else modality
    seen = descriptions(known, language, vocabulary, shown)
    return (_name(known, language, _wording(modality, language)), *seen)


def training_prompt(
    categories: Sequence[str],
    attributes: Sequence[str],
    rng: np.random.Generator,
    domain_knowledge: bool = True,
    vocabulary: Vocabulary | None = None,
    language: str = "en",
) -> SampledPrompt:
    """Samples the text of a category sample: "A [ATR] fundus photograph of [CLS]" (KeepFIT).

    One of the sample's categories and one of its attributes are sampled; with `domain_knowledge`
    the category's name is then replaced by one of the name itself and its expert descriptions. An
    attribute that names a modality of `MODALITIES` takes the place of "fundus photograph".

    Args:
      categories: the sample's categories, ids or free names; at least one.
      attributes: words such as "noisy" or "ffa"; may be empty.
      rng: the generator of this sample.
      domain_knowledge: off for sets whose categories are original text.
      vocabulary: the bundled one where None.
      language: "en" or "zh".

    Raises:
      UserError: there is no category, or the language is unknown.
    """
    modality, attributes = split_modality(attributes)
    image = _wording(modality, language).image
    if not categories:
        raise UserError("a category sample needs at least one category to be prompted with")
    category = categories[int(rng.integers(len(categories)))]
    attribute = attributes[int(rng.integers(len(attributes)))] if len(attributes) else ""
    phrases = _phrases(category, language, vocabulary, modality)
    phrase = phrases[int(rng.integers(len(phrases)))] if domain_knowledge else phrases[0]
    text = _TRAINING_TEMPLATES[language].format(attribute=attribute, image=image, name=phrase)
    return SampledPrompt(" ".join(text.split()), category)


def prompts_of(style: str, modality: str = "cfp", wording: ReportWording | None = None) -> Prompts:
    """Makes the function that gives a class's prompts.

    Args:
      style: one of `PROMPT_STYLES`: "report" words them as reports do, per eye; "name" is
        KeepFIT's "A fundus photograph of [CLS]"; "knowledge" adds one such text for every expert
        description of the class.
      modality: of the images; it decides what the prompts call them.
      wording: of the reports that the network was trained with, in which "report" then speaks; None
        where it is unknown.
    """
    if style == "report":
        if wording is None:
            return functools.partial(class_prompts, modality=modality)
        return functools.partial(weighted_prompts, modality=modality, wording=wording)

    def prompts(name: str, language: str, eye: str | None) -> Sequence[str]:
        texts = knowledge_prompts(name, language, modality=modality)
        return texts if style == "knowledge" else texts[:1]

    return prompts
