"""Patients by diagnosis: reports that name the classes, or only what the classes are made of.

The classes are told from the findings of an eye. `classes` names them as they are called;
`grades` names stages and signs and never a class, as graders of diabetic eyes do, so that who
asks for the class by its name asks for a word that no report has.
"""

from collections.abc import Mapping

import numpy as np

from retfm_jax.data_builders.synthetic_fundus.population import Eye, Patient

#: The classes; `normal` means that no other one is present.
DIAGNOSES = (
    "normal",
    "diabetic_retinopathy",
    "amd",
    "glaucoma",
    "pathologic_myopia",
    "cataract",
)
#: How a population's reports are written.
STYLES = ("findings", "classes", "grades")

#: What an eye with any of these findings has.
_SHOWN_BY = {
    "diabetic_retinopathy": (
        "microaneurysms", "retinal_haemorrhage", "hard_exudates", "cotton_wool_spots",
        "neovascularisation", "laser_scars",
    ),
    "amd": ("drusen",),
    "glaucoma": ("large_cup",),
    "pathologic_myopia": ("tessellation",),
    "cataract": ("hazy_media",),
}  # fmt: skip

_CLASSES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "en": {
        "normal": ("normal fundus",),
        "diabetic_retinopathy": ("diabetic retinopathy",),
        "amd": ("age-related macular degeneration",),
        "glaucoma": ("glaucoma",),
        "pathologic_myopia": ("pathological myopia",),
        "cataract": ("cataract",),
    },
    "zh": {
        "normal": ("正常眼底",),
        "diabetic_retinopathy": ("糖尿病视网膜病变",),
        "amd": ("年龄相关性黄斑变性",),
        "glaucoma": ("青光眼",),
        "pathologic_myopia": ("病理性近视",),
        "cataract": ("白内障",),
    },
}
_SIGNS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "en": {
        "normal": ("normal fundus",),
        "mild": ("mild nonproliferative retinopathy",),
        "moderate": ("moderate non proliferative retinopathy",),
        "severe": ("severe nonproliferative retinopathy",),
        "proliferative": ("proliferative retinopathy",),
        "amd": ("drusen", "soft drusen"),
        "glaucoma": ("large cup", "enlarged optic cup"),
        "pathologic_myopia": ("tessellated fundus",),
        "cataract": ("refractive media opacity", "hazy media"),
    },
    "zh": {
        "normal": ("正常眼底",),
        "mild": ("轻度NPDR",),
        "moderate": ("中度NPDR",),
        "severe": ("重度NPDR",),
        "proliferative": ("PDR",),
        "amd": ("玻璃膜疣", "软性玻璃膜疣"),
        "glaucoma": ("视杯扩大", "大视杯"),
        "pathologic_myopia": ("豹纹状眼底",),
        "cataract": ("屈光间质混浊",),
    },
}
_SENTENCES = {
    "en": ("Left eye: {}. ", "Right eye: {}.", ", "),
    "zh": ("左眼：{}；", "右眼：{}。", "、"),
}


def eye_diagnoses(eye: Eye) -> tuple[str, ...]:
    """The classes of an eye, in the order of `DIAGNOSES`."""
    found = tuple(name for name, signs in _SHOWN_BY.items() if set(signs) & set(eye.findings))
    return found or ("normal",)


def patient_diagnoses(patient: Patient) -> tuple[str, ...]:
    """The union over the photographed eyes; `normal` only where every one is normal."""
    found = {name for eye in patient.eyes for name in eye_diagnoses(eye)}
    return tuple(name for name in DIAGNOSES if name in found and name != "normal") or ("normal",)


def write_diagnoses(
    patient: Patient, style: str
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """A patient's report by language, and what it says of each eye by side.

    Args:
      style: "classes" or "grades".
    """
    whole: dict[str, str] = {}
    of_eyes: dict[str, dict[str, str]] = {"left": {}, "right": {}}
    for number, (language, (*sentences, comma)) in enumerate(_SENTENCES.items()):
        rng = np.random.default_rng((patient.seed, number))
        parts = []
        for sentence, eye in zip(sentences, (patient.left, patient.right), strict=True):
            if eye is None:
                continue
            of_eyes[eye.side][language] = text = comma.join(_terms(eye, language, style, rng))
            parts.append(sentence.format(text))
        whole[language] = "".join(parts).strip()
    return whole, of_eyes


def _terms(eye: Eye, language: str, style: str, rng: np.random.Generator) -> list[str]:
    table = (_CLASSES if style == "classes" else _SIGNS)[language]
    said = []
    for name in eye_diagnoses(eye):
        if style == "grades" and name == "diabetic_retinopathy":
            name = _grade(eye)
        choices = table[name]
        said.append(choices[int(rng.integers(len(choices)))])
    return said


def _grade(eye: Eye) -> str:
    """The stage of diabetic retinopathy by what is seen, coarsely as the ICDR scale has it."""
    found = set(eye.findings)
    if found & {"neovascularisation", "laser_scars"}:
        return "proliferative"
    if "cotton_wool_spots" in found:
        return "severe"
    return "moderate" if found & {"retinal_haemorrhage", "hard_exudates"} else "mild"
