"""The picture of the front page: a synthetic photograph, its heat map, and probabilities.

    retfm data build synthetic_fundus --patients 1600 --image_size 128 --data_dir front/datasets
    retfm train --config quickstart --workdir front/run --config.data.data_dir=front/datasets \
        --config.data.image.size=96 --config.model.image.image_size=96 \
        --config.train.batch_size=48 --config.train.steps=500
    python docs/front.py front/run docs

The first two commands train the config `quickstart` on larger photographs. The third writes into
`docs/example` this network, with 16 bits a weight, and a photograph that it has not seen, and into
`docs/pictures` what the network says of it, for light and for dark pages. Nobody's photograph is in
them: network and picture are under the license of this project.
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import retfm_jax
from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye, encode
from retfm_jax.data_builders.synthetic_fundus.population import POPULATIONS, draw_patient
from retfm_jax.interop.hub_folder import write_hub_folder
from retfm_jax.interop.weights import read_tensors, write_tensors
from retfm_jax.knowledge.vocabulary import LANGUAGES, load_vocabulary
from retfm_jax.model import RetinalModel
from retfm_jax.rendering import figures
from retfm_jax.rendering.colors import OKABE_ITO, hexadecimal
from retfm_jax.rendering.overlays import overlay

#: The eye is the left one of this patient of the test split.
PATIENT, SIZE = 289, 512
#: What the network is asked; the map is of the first.
CLASSES = ("drusen", "normal", "hard_exudates", "cotton_wool_spots")
#: Picture -> its ground and ink, and the bars of each language.
THEMES = {
    "front.png": ("#ffffff", "#1f2328", {"en": "blue", "zh": "vermilion"}),
    "front_dark.png": ("#0d1117", "#e6edf3", {"en": "sky blue", "zh": "orange"}),
}
_ASKED = {"en": "asked in English", "zh": "asked in Chinese (中文)"}


def photograph(number: int, size: int = SIZE) -> bytes:
    """The left eye of a patient of the test split that `retfm data build synthetic_fundus` makes.

    Args:
      number: of the patient; one that has a left eye.
      size: of the square photograph in pixels.

    Returns:
      the JPEG file.
    """
    patient = draw_patient(POPULATIONS["clinic"], 0, "test", number)
    assert patient.left is not None
    return encode(draw_eye(patient.left, patient.look, size))


def write_network(model: RetinalModel, folder: pathlib.Path) -> None:
    """Writes a network as a folder that `retfm_jax.load` reads, with 16 bits a weight.

    Args:
      model: the network, with the bundled vocabulary.
      folder: is made.
    """
    write_hub_folder(folder, model.stored)
    weights = folder / "model.safetensors"
    halves = {
        name: value.astype(np.float16) if value.dtype == np.float32 else value
        for name, value in read_tensors(weights).items()
    }
    write_tensors(weights, halves)
    for path in folder.iterdir():  # no model card, and the vocabulary is the package's
        if path.name not in (weights.name, "config.json"):
            path.unlink()


def ask(model: RetinalModel, eye: bytes) -> dict[str, dict[str, float]]:
    """Probabilities of `CLASSES` by the prompts of each language.

    Args:
      model: a network of images and texts.
      eye: the photograph's file.

    Returns:
      language -> class -> probability, rounded to three decimals.
    """
    tables = {each: model.zero_shot(eye, CLASSES, language=each) for each in LANGUAGES}
    return {
        language: {name: round(float(table[name][0]), 3) for name in CLASSES}
        for language, table in tables.items()
    }


@figures.plain_style()
def picture(
    eye: UInt8[np.ndarray, "h w 3"],
    map_over: UInt8[np.ndarray, "h w 3"],
    asked: dict[str, dict[str, float]],
    theme: tuple[str, str, dict[str, str]],
) -> Any:
    """Plots photograph and map above the bars of the probabilities.

    Args:
      eye, map_over: RGB.
      asked: as `ask` gives it.
      theme: one of `THEMES`.

    Returns:
      the Matplotlib figure.
    """
    ground, ink, colors = theme
    names = load_vocabulary()
    width, side, row = 8.0, 3.9, 0.52  # inches
    height = side + 0.45 + row * (len(CLASSES) + 0.6)
    figure = figures.new_figure(width, height)
    figure.set_layout_engine("none")
    figure.set_facecolor(ground)
    titles = "photograph", f"what speaks for {names[CLASSES[0]].name['en']}"
    for left, title, shown in zip((0.0, width - side), titles, (eye, map_over), strict=True):
        place = (left / width, 1 - (side + 0.45) / height, side / width, side / height)
        axes = figure.add_axes(place)
        axes.imshow(shown)
        axes.set_title(title, fontsize=16, color=ink)
        axes.axis("off")
    bars = figure.add_axes((0.37, 0.01, 0.62, row * len(CLASSES) / height))
    for number, name in enumerate(CLASSES):
        for language, shift in (("en", -0.2), ("zh", 0.2)):
            value, y = asked[language][name], number + shift
            bars.barh(y, value, 0.36, color=hexadecimal(OKABE_ITO[colors[language]]))
            bars.text(value + 0.01, y, f"{value:.2f}", color=ink, va="center", fontsize=13)
    labels = [f"{names[name].name['en']}  {names[name].name['zh']}" for name in CLASSES]
    bars.set_yticks(range(len(CLASSES)), labels, fontsize=15, color=ink)
    bars.set(xlim=(0, 1.12), ylim=(len(CLASSES) - 0.5, -0.5), xticks=[], facecolor=ground)
    bars.tick_params(length=0)
    bars.spines[:].set_visible(False)
    for language, line in zip(LANGUAGES, (len(CLASSES) - 1.2, len(CLASSES) - 0.75), strict=True):
        color = hexadecimal(OKABE_ITO[colors[language]])
        bars.text(1.1, line, _ASKED[language], color=color, fontsize=15, ha="right", va="center")
    return figure


def make(workdir: pathlib.Path, docs: pathlib.Path, size: int = SIZE) -> None:
    """Writes `example` and `pictures` below a folder.

    Args:
      workdir: of a network of images and texts.
      docs: the folder.
      size: of the photograph in pixels.
    """
    example, pictures = docs / "example", docs / "pictures"
    for folder in (example, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    write_network(retfm_jax.load(workdir), example / "retclip")
    (example / "eye.jpg").write_bytes(photograph(PATIENT, size))
    model = retfm_jax.load(example / "retclip")
    eye = (example / "eye.jpg").read_bytes()
    asked = ask(model, eye)
    pixels = model.decode(eye, "eye.jpg")
    (heat,) = model.heatmap(eye, CLASSES[0])
    said = PngInfo()
    said.add_text("probabilities", json.dumps(asked))
    for name, theme in THEMES.items():
        figure = picture(pixels, overlay(pixels, heat), asked, theme)
        figure.set_dpi(200)
        figure.canvas.draw()
        pixels_shown = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        Image.fromarray(pixels_shown).save(pictures / name, optimize=True, pnginfo=said)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workdir", type=pathlib.Path, help="of the network")
    parser.add_argument("docs", type=pathlib.Path, help="folder that gets example/ and pictures/")
    given = parser.parse_args()
    make(given.workdir, given.docs)
