"""The line figures of the concept pages, as SVG that stands in the page itself.

What can be computed is: names of levels, weights of pairs, which device holds which samples and
which part of an array. Lines and letters have the page's color, so that they are seen in light and
dark; every figure is 360 wide, which a telephone shows at its own size.
"""

import html
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from retfm_jax.losses import coupling
from retfm_jax.losses.tripartite import LEVELS
from retfm_jax.runtime.mesh import partition_spec
from retfm_jax.training.gradient_cache import divide

WIDTH = 360
#: Size of letters, and how many times that one of them is wide on average.
SMALL, LETTER = 12, 0.5
FIRST, SECOND, THIRD = "var(--first)", "var(--second)", "var(--third)"


def diagrams() -> dict[str, str]:
    """Every figure: its name -> an SVG element."""
    return {
        "tripartite": _tripartite(),
        "coupling": _coupling(),
        "revision": _revision(),
        "mesh": _mesh(),
        "resuming": _resuming(),
    }


# Parts of figures.


def _svg(height: int, title: str, parts: Sequence[str]) -> str:
    """A figure with a name for those who do not see it."""
    arrow = (
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="currentColor"/></marker>'
    )
    return "\n".join(
        [
            f'<svg class="diagram" role="img" viewBox="0 0 {WIDTH} {height}" '
            'xmlns="http://www.w3.org/2000/svg">',
            f"<title>{html.escape(title)}</title><defs>{arrow}</defs>",
            *parts,
            "</svg>",
            "",
        ]
    )


def _text(
    x: float, y: float, text: str, anchor: str = "middle", bold: bool = False, turn: int = 0
) -> str:
    weight = ' font-weight="600"' if bold else ""
    turned = f' transform="rotate({turn} {x} {y})"' if turn else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{SMALL}" text-anchor="{anchor}"{weight}{turned}>'
        f"{html.escape(text)}</text>"
    )


def _box(
    x: float, y: float, width: float, height: float, text: str = "", color: str = "currentColor",
    fill: float = 0.0, dashed: bool = False,
) -> str:  # fmt: skip
    """A rectangle; `fill` is the opacity of its color inside."""
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    inside = f'fill="{color}" fill-opacity="{fill}"' if fill else 'fill="none"'
    shape = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" {inside} '
        f'stroke="{color}"{dashes}/>'
    )
    return shape + (_text(x + width / 2, y + height / 2 + 4, text) if text else "")


def _arrow(*points: tuple[float, float], both: bool = False) -> str:
    path = "M" + " ".join(f"{x} {y}" for x, y in points)
    start = ' marker-start="url(#tip)"' if both else ""
    return f'<path d="{path}" fill="none" stroke="currentColor"{start} marker-end="url(#tip)"/>'


def _cross(x: float, y: float, size: float) -> str:
    ends = f"M{x + 4} {y + 4} {x + size - 4} {y + size - 4}M{x + size - 4} {y + 4} {x + 4} "
    return f'<path d="{ends}{y + size - 4}" stroke="currentColor" opacity="0.5"/>'


# Figures.


def _tripartite() -> str:
    """Two eyes and a report, three embeddings of each, three tables of pairs."""
    parts = [
        _box(8, 8, 76, 30, "left eye", FIRST, 0.12),
        _box(96, 8, 76, 30, "right eye", FIRST, 0.12),
        _box(228, 8, 112, 30, "report", SECOND, 0.12),
        _arrow((46, 38), (46, 56)),
        _arrow((134, 38), (134, 56)),
        _arrow((284, 38), (284, 56)),
        _box(8, 58, 164, 30, "image tower, one for both", FIRST),
        _box(228, 58, 112, 30, "text tower", SECOND),
    ]
    order = [level for level in ("left", "right", "patient") if level in LEVELS]
    for index, level in enumerate(order):
        image, text = 8 + 56 * index, 192 + 56 * index
        parts += [
            _arrow((34 + 56 * index, 88), (image + 26, 108)),
            _arrow((284, 88), (text + 26, 108)),
            _box(image, 110, 52, 26, level, FIRST, 0.12),
            _box(text, 110, 52, 26, level, SECOND, 0.12),
        ]
        left = 8 + 120 * index
        parts += _pairs(left, 192, level)
    parts.append(_text(180, 158, "each level compares its images with its texts:"))
    parts.append(_text(180, 312, "filled: a patient's own pair; crossed: no such eye"))
    title = "RET-CLIP: left eye, right eye and patient, each compared with its own text embedding"
    return _svg(322, title, parts)


def _pairs(left: float, top: float, level: str) -> list[str]:
    """The similarities of four patients at a level; the third one has no left eye."""
    size, absent = 24, {"left": 2}.get(level)
    parts = [_text(left + 2 * size, top - 8, f"{level}, texts 1 to 4")]
    for row in range(4):
        for column in range(4):
            x, y = left + size * column, top + size * row
            own = row == column
            parts.append(_box(x, y, size, size, "", THIRD if own else "currentColor", 0.5 * own))
            if absent in (row, column):
                parts.append(_cross(x, y, size))
    return parts


#: Findings of the reports in the figure of coupling: of the batch, and of the queue.
_SAID = ((0,), (1,), (0,), (1, 2))
_REMEMBERED = ((0,), (2,), (1,), ())
_NAMES = ("normal", "drusen", "exudates")


def coupling_weights() -> np.ndarray:
    """Weights of the pairs of the figure, (4, 8): a row a query, a column a candidate."""
    queries, candidates = _multi_hot(_SAID), _multi_hot(_SAID + _REMEMBERED)
    own = jnp.asarray(np.eye(len(queries), len(candidates), dtype=bool))
    logs = coupling.log_weights(queries, candidates, own, gamma=1.0)
    return np.exp(np.asarray(logs, np.float64))


def _multi_hot(said: Sequence[Sequence[int]]) -> jnp.ndarray:
    return jnp.asarray([[float(label in row) for label in range(len(_NAMES))] for row in said])


def _coupling() -> str:
    """The weight of each pair, over the batch and the queue."""
    size, left, top = 31, 106, 138
    weights = coupling_weights()
    words = [" + ".join(_NAMES[label] for label in row) for row in _SAID + _REMEMBERED]
    words = [word or "no label" for word in words]
    parts = [
        _text(left + 2 * size, 14, "this batch", bold=True),
        _text(left + 6 * size, 14, "queue", bold=True),
        _text(left - 8, top - 6, "photograph of", "end", bold=True),
    ]
    for column, word in enumerate(words):
        parts.append(_text(left + size * column + 20, top - 8, word, "start", turn=-90))
    for row, word in enumerate(words[: len(weights)]):
        lines = word.split(" + ")
        for line, text in enumerate(lines):
            middle = top + size * row + 20 + 13 * (line - (len(lines) - 1) / 2)
            parts.append(_text(left - 8, middle, text + " +" * (line + 1 < len(lines)), "end"))
        for column, weight in enumerate(weights[row]):
            x, y = left + size * column, top + size * row
            if row == column:
                parts.append(_box(x, y, size, size, "own", THIRD, 0.5))
            elif weight == 0:
                parts += [_box(x, y, size, size), _cross(x, y, size)]
            else:
                said = f"{weight:.2f}".removeprefix("0")
                parts.append(_box(x, y, size, size, said, FIRST, 0.25 * weight))
    middle = left + len(_SAID) * size
    parts.append(
        f'<path d="M{middle} 4V{top + len(weights) * size}" stroke="currentColor" '
        'stroke-width="2"/>'
    )
    below = top + len(weights) * size
    parts.append(_text(180, below + 24, "number: weight of a negative; crossed: eliminated,"))
    parts.append(_text(180, below + 40, "because its report says the same"))
    return _svg(below + 50, "ViLReF: weights of the pairs of a batch and of the queue", parts)


def _revision() -> str:
    """Category photographs look for experts' photographs, and take their texts."""
    parts = [
        _text(90, 14, "many, with categories", bold=True),
        _text(270, 14, "few, with experts' texts", bold=True),
        _box(8, 24, 76, 30, "category", SECOND, 0.12),
        _box(96, 24, 76, 30, "photograph", FIRST, 0.12),
        _box(192, 24, 76, 30, "photograph", FIRST, 0.12),
        _box(280, 24, 72, 30, "text", SECOND, 0.12),
        _arrow((46, 54), (46, 180)),
        _arrow((134, 54), (134, 96)),
        _arrow((230, 54), (230, 96)),
        _arrow((316, 54), (316, 180)),
        _box(96, 98, 172, 44, "", THIRD),
        _text(182, 116, "how alike are they?"),
        _text(182, 133, "query . key, in heads"),
        _arrow((224, 142), (224, 180)),
        _box(192, 182, 160, 44, "", SECOND, 0.12),
        _text(272, 200, "revised text: experts'"),
        _text(272, 217, "texts, weighed"),
        _box(8, 182, 128, 44, "", SECOND, 0.12),
        _text(72, 200, "embedding of the"),
        _text(72, 217, "category's text"),
        _arrow((138, 204), (190, 204), both=True),
        _text(164, 248, "pulled together: mean squared difference"),
    ]
    return _svg(258, "KeepFIT: category texts are revised by experts' texts", parts)


def device_samples(batch: int = 16, devices: int = 4, microbatches: int = 2) -> np.ndarray:
    """Samples of each microbatch on each device, (microbatches, devices, samples)."""
    divided = np.asarray(divide(jnp.arange(batch), microbatches))
    return divided.reshape(microbatches, devices, -1)


#: Arrays of the figure of a mesh: what it is, its path, its shape.
ARRAYS = (
    ("kernel of a layer", "visual/blocks/fc/kernel", (12, 768, 3072)),
    ("scale of a norm", "visual/ln_post/scale", (768,)),
    ("a queue", "queue/image", (4096, 512)),
)


def _mesh() -> str:
    """Sixteen samples on a mesh of 2 x 2 devices of two hosts."""
    parts = [_text(180, 14, "mesh.data = 2, mesh.fsdp = 2, two microbatches", bold=True)]
    samples = device_samples()
    for device in range(4):
        row, column = divmod(device, 2)
        x, y = 62 + 148 * column, 44 + 82 * row
        parts.append(_box(x, y, 140, 72))
        parts.append(_text(x + 8, y + 16, f"device {device}", "start", bold=True))
        for part, numbers in enumerate(samples[:, device]):
            said = f"{('1st', '2nd')[part]}: samples {', '.join(map(str, numbers))}"
            parts.append(_text(x + 8, y + 36 + 20 * part, said, "start"))
    for row in range(2):
        parts.append(_box(54, 38 + 82 * row + 1, 302, 82, "", FIRST, dashed=True))
        parts.append(_text(50, 78 + 82 * row, f"host {row}", "end"))
        parts.append(_text(50, 94 + 82 * row, "reads 8", "end"))
    parts.append(_text(180, 228, "parameters: halves over fsdp, both in each row"))
    for index, (name, path, shape) in enumerate(ARRAYS):
        y = 244 + 42 * index
        spec = partition_spec(path, shape, fsdp=2)
        said = " x ".join(f"{size:,}" for size in shape)
        parts.append(_text(8, y + 14, name, "start"))
        parts.append(_text(8, y + 29, said, "start"))
        if "fsdp" in spec:
            half = np.array(shape)
            half[list(spec).index("fsdp")] //= 2
            each = " x ".join(f"{size:,}" for size in half)
            parts += [_box(x, y, 108, 34, each, THIRD, 0.25) for x in (130, 242)]
        else:
            parts.append(_box(130, y, 220, 34, "whole on every device", "currentColor"))
    return _svg(372, "A batch and the parameters on a mesh of four devices", parts)


def _resuming() -> str:
    """Updates before and after a kill."""
    left, step = 8, 18
    parts = [_text(left, 16, "first process", "start", bold=True)]
    for number in range(14):
        kept = 0.25 * (number < 10)
        parts.append(_box(left + step * number, 26, step, 24, str(number), FIRST, kept))
    parts += [
        _cross(left + step * 14 + 2, 26, 24),
        _text(left + step * 14 + 30, 43, "killed", "start"),
        _arrow((left + step * 5, 78), (left + step * 5, 54)),
        _arrow((left + step * 10, 78), (left + step * 10, 54)),
        _text(left + step * 5, 92, "checkpoint"),
        _text(left + step * 10, 92, "checkpoint"),
        _text(left, 124, "the same command again", "start", bold=True),
        _arrow((left + step * 10, 98), (left + step * 10, 132)),
    ]
    for number in range(10, 16):
        again = 0.25 if number < 14 else 0.1
        parts.append(_box(left + step * number, 134, step, 24, str(number), THIRD, again))
    parts.append(_text(352, 178, "10 to 13 once more: same batches, same bits", "end"))
    parts.append(_text(left, 210, "a checkpoint", "start", bold=True))
    items = (
        ("network", "parameters, statistics of batch norms"),
        ("training", "optimizer, queues, random key, step"),
        ("data", "index of the next batch; what data it is of"),
        ("meta", "config, versions, checksums"),
    )
    for index, (name, what) in enumerate(items):
        y = 220 + 30 * index
        parts.append(_box(left, y, 70, 24, name, FIRST, 0.12))
        parts.append(_text(left + 80, y + 16, what, "start"))
    return _svg(348, "A run that was killed begins again at its last checkpoint", parts)
