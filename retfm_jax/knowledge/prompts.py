"""What a text tower is asked: class prompts for zero-shot, and KeepFIT's prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.knowledge.vocabulary import LANGUAGES, Condition, Vocabulary, load_vocabulary

_EYES = {
    "en": {None: "both eyes", "left": "left eye", "right": "right eye"},
    "zh": {None: "双眼", "left": "左眼", "right": "右眼"},
}

# Written as reports are: a side heading, then the finding. A disease is concluded, a finding is
# seen, a state simply is; Chinese uses another verb for each.
_TEMPLATES = {
    ("en", "disease"): (
        "{Eye}: {name}.",
        "{Eye}: fundus findings consistent with {name}.",
        "{Eye}: signs of {name}.",
    ),
    ("en", "finding"): (
        "{Eye}: {name}.",
        "{Eye}: {name} on the fundus photograph.",
        "{Eye}: the fundus shows {name}.",
    ),
    ("en", "state"): ("{Eye}: {name}.", "{Eye}: the fundus photograph shows {name}."),
    ("zh", "disease"): ("{eye}：{name}。", "{eye}：眼底表现符合{name}。", "{eye}诊断为{name}。"),
    ("zh", "finding"): ("{eye}：{name}。", "{eye}：可见{name}。", "{eye}眼底可见{name}。"),
    ("zh", "state"): ("{eye}：{name}。", "{eye}眼底照片：{name}。"),
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
    "en": ("{Eye}: normal fundus.", "{Eye}: no abnormality seen.", "{Eye}: the fundus is normal."),
    "zh": ("{eye}：正常眼底。", "{eye}：眼底未见明显异常。", "{eye}眼底未见异常。"),
}

_KNOWLEDGE_TEMPLATES = {"en": "A fundus photograph of {name}", "zh": "{name}的眼底照片"}
_TRAINING_TEMPLATES = {
    "en": "A {attribute} fundus photograph of {name}",
    "zh": "{name}的{attribute}眼底照片",
}


class SampledPrompt(NamedTuple):
    """A training text and the category that it was drawn for (equal categories are positives)."""

    text: str
    category: str


def _check_language(language: str) -> None:
    if language not in LANGUAGES:
        raise UserError(f"prompts exist in {' and '.join(LANGUAGES)}, not in {language!r}")


def _plain_name(category: str) -> str:
    return category.replace("_", " ").strip()


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def class_prompts(
    condition_id: str,
    language: str,
    eye: str | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[str, ...]:
    """The texts that stand for a class at zero-shot time, in the style of reports.

    Their embeddings are averaged. A class that the vocabulary does not know is spoken of by its
    own name.

    Args:
      condition_id: an id (or a name) of the vocabulary, or any class name.
      language: "en" or "zh".
      eye: "left" or "right" for the text of one eye, None for the patient's.
      vocabulary: the bundled one where None.

    Raises:
      UserError: the language or the eye is unknown.
    """
    _check_language(language)
    if eye not in _EYES[language]:
        raise UserError(f"eye must be 'left', 'right' or None, not {eye!r}")
    condition = (vocabulary or load_vocabulary()).find(condition_id)
    name = condition.name[language] if condition else _plain_name(condition_id)
    kind = condition.kind if condition else "finding"
    if condition is not None and condition.id == "normal":
        templates = _NORMAL[language]
    else:
        templates = _TEMPLATES[language, kind]
    if eye is None:
        templates = _PATIENT_TEMPLATES[language, kind] + templates
    side = _EYES[language][eye]
    return tuple(
        template.format(eye=side, Eye=_sentence_case(side), name=name, Name=_sentence_case(name))
        for template in templates
    )


def descriptions(condition: Condition, language: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Expert descriptions of a condition: its signs, then the names of its typical findings."""
    findings = (
        vocabulary[finding].name[language] for finding in vocabulary.findings_of(condition.id)
    )
    return tuple(dict.fromkeys((*condition.signs[language], *findings)))


def knowledge_prompts(
    condition: str, language: str = "en", vocabulary: Vocabulary | None = None
) -> tuple[str, ...]:
    """KeepFIT's prompts at inference with domain knowledge: the name, then each description.

    The class embedding is the mean over them; the first alone is the prompt without domain
    knowledge. A category that the vocabulary does not know has only its own name.

    Args:
      condition: an id or a name of the vocabulary, or any category name.
      language: "en" or "zh".
      vocabulary: the bundled one where None.

    Raises:
      UserError: the language is unknown.
    """
    _check_language(language)
    vocabulary = vocabulary or load_vocabulary()
    known = vocabulary.find(condition)
    if known is None:
        phrases: tuple[str, ...] = (_plain_name(condition),)
    else:
        phrases = (known.name[language], *descriptions(known, language, vocabulary))
    template = _KNOWLEDGE_TEMPLATES[language]
    return tuple(template.format(name=phrase) for phrase in phrases)


def training_prompt(
    categories: Sequence[str],
    attributes: Sequence[str],
    rng: np.random.Generator,
    domain_knowledge: bool = True,
    vocabulary: Vocabulary | None = None,
    language: str = "en",
) -> SampledPrompt:
    """Draws the text of a category sample: "A [ATR] fundus photograph of [CLS]" (KeepFIT).

    One category and one attribute of the sample are drawn; with `domain_knowledge` the category's
    name is then replaced by one drawn from the name itself and its expert descriptions.

    Args:
      categories: the sample's categories, ids or free names; at least one.
      attributes: words such as "noisy"; may be empty.
      rng: the generator of this sample.
      domain_knowledge: off for sets whose text is original.
      vocabulary: the bundled one where None.
      language: "en" or "zh".

    Raises:
      UserError: there is no category, or the language is unknown.
    """
    _check_language(language)
    if not categories:
        raise UserError("a category sample needs at least one category to be prompted with")
    vocabulary = vocabulary or load_vocabulary()
    category = categories[int(rng.integers(len(categories)))]
    attribute = attributes[int(rng.integers(len(attributes)))] if len(attributes) else ""
    known = vocabulary.find(category)
    phrase = known.name[language] if known else _plain_name(category)
    if domain_knowledge and known is not None:
        phrases = (phrase, *descriptions(known, language, vocabulary))
        phrase = phrases[int(rng.integers(len(phrases)))]
    text = _TRAINING_TEMPLATES[language].format(attribute=attribute, name=phrase)
    return SampledPrompt(" ".join(text.split()), category)
