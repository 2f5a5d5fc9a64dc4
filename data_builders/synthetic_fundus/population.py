"""Who is photographed: which findings stand in which eye, and how the camera saw it.

A patient has diseases, a disease brings findings, mostly to both eyes. So findings come together
as they do in a clinic (microaneurysms with haemorrhages, tessellation with peripapillary atrophy)
and the fellow eye is informative without being a copy.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

#: Label names in the order of the dataset's classes; `normal` means that no other one is present.
LABELS = (
    "normal",
    "microaneurysms",
    "retinal_haemorrhage",
    "hard_exudates",
    "cotton_wool_spots",
    "neovascularisation",
    "drusen",
    "large_cup",
    "tessellation",
    "peripapillary_atrophy",
    "hazy_media",
    "laser_scars",
)

#: The splits and the number that stands for each in a patient's random seed.
SPLITS = {"train": 0, "validation": 1, "test": 2}

#: What opaque media hide from the camera, and hence from the grader.
_HIDDEN_BY_HAZE = ("microaneurysms", "drusen", "cotton_wool_spots", "neovascularisation")

#: Probability that an eye shares the patient's tendency to a finding with the fellow eye.
_ALIKE = 0.6


@dataclasses.dataclass(frozen=True)
class Disease:
    """What brings findings.

    Attributes:
      findings: probability of each finding in an eye that has the disease.
      bilateral: probability that an affected patient has it in both eyes.
      core: the finding that an affected eye shows when sampling gave none.
    """

    findings: Mapping[str, float]
    bilateral: float
    core: str


DISEASES: Mapping[str, Disease] = {
    "diabetic_retinopathy": Disease(
        {
            "microaneurysms": 0.62,
            "retinal_haemorrhage": 0.48,
            "hard_exudates": 0.48,
            "cotton_wool_spots": 0.36,
            "neovascularisation": 0.38,
            "laser_scars": 0.42,
        },
        bilateral=0.85,
        core="microaneurysms",
    ),
    "vein_occlusion": Disease(
        {"retinal_haemorrhage": 0.95, "cotton_wool_spots": 0.5, "neovascularisation": 0.1},
        bilateral=0.05,
        core="retinal_haemorrhage",
    ),
    "macular_degeneration": Disease({"drusen": 1.0}, bilateral=0.8, core="drusen"),
    "glaucoma": Disease(
        {"large_cup": 1.0, "peripapillary_atrophy": 0.2}, bilateral=0.75, core="large_cup"
    ),
    "myopia": Disease(
        {"tessellation": 0.75, "peripapillary_atrophy": 0.65}, bilateral=0.9, core="tessellation"
    ),
    "cataract": Disease({"hazy_media": 1.0}, bilateral=0.7, core="hazy_media"),
}


@dataclasses.dataclass(frozen=True)
class Population:
    """How often a patient has each disease, independently of the others, and how alike cases are.

    Attributes:
      rates: probability of each of `DISEASES`.
      one_eyed: share of patients with a photograph of one eye only.
      typical: probability that a disease shows in a patient just with its usual findings (those of
        probability 0.5 and more, or the core). At 1, patients of one disease share their labels.
      reports: what labels and reports speak of: "findings", or of diagnoses by their names
        ("classes") or by grades and signs alone ("grades"): see `diagnoses`.
    """

    rates: Mapping[str, float]
    one_eyed: float = 0.06
    typical: float = 0.0
    reports: str = "findings"


#: One disease for each class of `diagnoses.DIAGNOSES`, and nothing that could be another.
_DIAGNOSED = {
    "diabetic_retinopathy": 0.30,
    "vein_occlusion": 0.0,
    "macular_degeneration": 0.17,
    "glaucoma": 0.17,
    "myopia": 0.17,
    "cataract": 0.13,
}

#: `clinic`: each finding in 8 to 20 % of eyes, a third of patients healthy.
#: `repetitive`: a screening program, where most patients are normal and the others share their
#: findings, so that a batch is full of pairs that are no negatives of each other.
#: `classes`, `grades`: the same eyes with the same diagnoses, which the reports of the one name,
#: and the reports of the other never do.
POPULATIONS: Mapping[str, Population] = {
    "clinic": Population(
        {
            "diabetic_retinopathy": 0.36,
            "vein_occlusion": 0.06,
            "macular_degeneration": 0.17,
            "glaucoma": 0.17,
            "myopia": 0.20,
            "cataract": 0.13,
        }
    ),
    "repetitive": Population(
        {
            "diabetic_retinopathy": 0.10,
            "vein_occlusion": 0.02,
            "macular_degeneration": 0.08,
            "glaucoma": 0.06,
            "myopia": 0.08,
            "cataract": 0.05,
        },
        typical=0.7,
    ),
    "classes": Population(_DIAGNOSED, reports="classes"),
    "grades": Population(_DIAGNOSED, reports="grades"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding in one eye.

    Attributes:
      severity: 0 (few or small) to 1 (many or large).
      variant: a place or a form that the picture and the report agree on; its meaning belongs to
        the finding: neovascularisation "disc" or "elsewhere", haemorrhage "blot" or "flame",
        hard exudates "circinate" or "scattered".
    """

    severity: float
    variant: str = ""


@dataclasses.dataclass(frozen=True)
class Look:
    """What both photographs of a patient share.

    Attributes:
      pigment: 0 (fair fundus) to 1 (dark fundus).
      gains: red, green and blue gain of the camera.
      vignette: loss of light at the edge of the field, 0 to 1.
      cut: how much of the field the sensor cuts at top and bottom, as a share of the radius.
    """

    pigment: float
    gains: tuple[float, float, float]
    vignette: float
    cut: float


@dataclasses.dataclass(frozen=True)
class Eye:
    """One eye, all that its picture and its report are made of.

    Attributes:
      side: "left" or "right".
      cup_ratio: vertical cup-to-disc ratio.
      findings: by label name; empty means normal.
      exposure: brightness of this photograph, about 1.
      seed: of everything in the picture that no report speaks of.
    """

    side: str
    cup_ratio: float
    findings: Mapping[str, Finding]
    exposure: float
    seed: int

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of `LABELS`."""
        return tuple(name for name in LABELS if name in self.findings) or ("normal",)


@dataclasses.dataclass(frozen=True)
class Patient:
    """A patient; an eye that was not photographed is None, and at least one is there.

    Attributes:
      left, right: the eyes.
      look: what the two photographs share.
      seed: of the report's wording.
    """

    left: Eye | None
    right: Eye | None
    look: Look
    seed: int

    @property
    def eyes(self) -> tuple[Eye, ...]:
        """The photographed eyes, right one first as clinicians write them."""
        return tuple(eye for eye in (self.right, self.left) if eye is not None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The union over the photographed eyes; `normal` only where every one is normal."""
        present = {name for eye in self.eyes for name in eye.findings}
        return tuple(name for name in LABELS if name in present) or ("normal",)


def draw_patient(population: Population, seed: int, split: str, index: int) -> Patient:
    """Generates patient number `index` of a split; no other patient has a part in it."""
    rng = np.random.default_rng((seed, SPLITS[split], index))
    courses: dict[str, list[_Course]] = {"left": [], "right": []}
    for name, disease in DISEASES.items():
        if rng.random() < population.rates[name]:
            both = rng.random() < disease.bilateral
            tendency = {finding: float(rng.random()) for finding in disease.findings}
            course = _Course(name, bool(rng.random() < population.typical), tendency)
            for side in courses if both else [_either_side(rng)]:
                courses[side].append(course)
    look = Look(
        pigment=float(rng.beta(1.6, 1.8)),
        gains=_gains(rng),
        vignette=float(rng.uniform(0.15, 0.4)),
        cut=float(rng.uniform(0.04, 0.16)) if rng.random() < 0.3 else 0.0,
    )
    cup_ratio = rng.uniform(0.25, 0.5)
    exposure = rng.uniform(0.9, 1.12)
    eyes: dict[str, Eye | None] = {
        side: _draw_eye(rng, side, courses[side], cup_ratio, exposure) for side in courses
    }
    if rng.random() < population.one_eyed:
        eyes[_either_side(rng)] = None
    return Patient(eyes["left"], eyes["right"], look, int(rng.integers(2**31)))


def _gains(rng: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = rng.normal(1.0, (0.03, 0.05, 0.08)).clip(0.8, 1.2)
    return float(red), float(green), float(blue)


@dataclasses.dataclass(frozen=True)
class _Course:
    """A disease in one patient; a finding shows where its tendency lies below its probability."""

    disease: str
    typical: bool
    tendency: Mapping[str, float]


def _either_side(rng: np.random.Generator) -> str:
    return "left" if rng.random() < 0.5 else "right"


def _draw_eye(
    rng: np.random.Generator,
    side: str,
    courses: list[_Course],
    cup_ratio: float,
    exposure: float,
) -> Eye:
    findings: dict[str, Finding] = {}
    for course in courses:
        disease = DISEASES[course.disease]
        # An eye follows the patient's tendency or goes its own way.
        tendency = {
            finding: shared if rng.random() < _ALIKE else rng.random()
            for finding, shared in course.tendency.items()
        }
        present = [
            finding
            for finding, rate in disease.findings.items()
            if (rate >= 0.5 if course.typical else tendency[finding] < rate)
        ]
        for finding in present or [disease.core]:
            findings[finding] = Finding(float(rng.random()), _variant(rng, finding, course.disease))
    if "hazy_media" in findings:
        findings = {name: f for name, f in findings.items() if name not in _HIDDEN_BY_HAZE}
    if "large_cup" in findings:
        cup_ratio = 0.75 + 0.14 * findings["large_cup"].severity
    else:
        cup_ratio = np.clip(cup_ratio + rng.normal(0, 0.03), 0.2, 0.55)
    exposure = float(exposure * rng.normal(1.0, 0.03))
    return Eye(side, round(float(cup_ratio), 2), findings, exposure, int(rng.integers(2**31)))


def _variant(rng: np.random.Generator, finding: str, disease: str) -> str:
    if finding == "neovascularisation":
        return "disc" if rng.random() < 0.5 else "elsewhere"
    if finding == "retinal_haemorrhage":
        return "flame" if disease == "vein_occlusion" or rng.random() < 0.2 else "blot"
    if finding == "hard_exudates":
        return "circinate" if rng.random() < 0.5 else "scattered"
    return ""
