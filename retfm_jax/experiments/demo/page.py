"""The page, as gradio's blocks; photographs come and go by `uploads`, never through gradio."""

import functools
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retfm_jax.experiments.demo import examples, results, words
from retfm_jax.experiments.demo.answers import ORDER, Photograph, Reader
from retfm_jax.experiments.demo.guard import Kept, Refused, Turns, photograph
from retfm_jax.experiments.demo.words import Words, class_name
from retfm_jax.knowledge.laterality import Side

if TYPE_CHECKING:
    import gradio as gr

_log = logging.getLogger(__name__)

#: Stands for "the likeliest class" among the targets.
LIKELIEST = ""
#: Longest text of one choice that the page may send.
_LONGEST = 200

#: Style of the field for a photograph.
_EYE_STYLE = """
.retfm-eye label { display: block; border: 2px dashed var(--border-color-primary);
  border-radius: 8px; padding: .7rem; text-align: center; cursor: pointer; min-height: 190px;
  color: var(--body-text-color); }
.retfm-eye label:focus-within { outline: 2px solid #2f6fb0; }
.retfm-eye strong, .retfm-eye span { display: block; }
.retfm-eye img { display: block; margin: .5rem auto 0; max-height: 220px; max-width: 100%;
  border-radius: 4px; }
.retfm-eye input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.retfm-eye .said { color: #b3382c; margin: .4rem 0 0; white-space: pre-line; font-weight: 600; }
.dark .retfm-eye .said { color: #f28b7d; }
.retfm-eye button { margin-top: .4rem; text-decoration: underline; cursor: pointer; }
.retfm-eye button[hidden] { display: none; }
"""
STYLE = results.STYLE + _EYE_STYLE

#: Of the field: `value` is the key of the photograph, "" without one; `said` what went wrong.
_EYE = """
<div class="retfm-eye">
  <label><strong>{title}</strong><span>{choose}</span>
    <input type="file" aria-label="{title}">
    ${{value ? '<img alt="" src="photograph/' + value + '">' : ''}}
  </label>
  <p class="said" role="alert">${{said}}</p>
  <button type="button" ${{value ? '' : 'hidden'}}>{remove}</button>
</div>
"""
_EYE_SCRIPT = """
const told = {said};
const header = {{ 'X-Retfm': '1' }};
function forget() {{
  if (props.value) fetch('photograph/' + props.value, {{ method: 'DELETE', headers: header }});
  props.value = '';
}}
async function send(file) {{
  forget();
  props.said = told.reading;
  try {{
    const reply = await fetch('photograph', {{ method: 'POST', headers: header, body: file }});
    const answer = await reply.json();
    props.said = answer.said || '';
    props.value = answer.key || '';
  }} catch (error) {{
    props.said = told.unreached;
  }}
  trigger('change');
}}
element.addEventListener('change', event => {{
  if (event.target.type === 'file' && event.target.files.length) send(event.target.files[0]);
}});
element.addEventListener('dragover', event => event.preventDefault());
element.addEventListener('drop', event => {{
  event.preventDefault();
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
}});
element.addEventListener('click', event => {{
  if (event.target.tagName !== 'BUTTON') return;
  forget();
  props.said = '';
  trigger('change');
}});
"""


def make_page(reader: Reader, kept: Kept, turns: Turns) -> "gr.Blocks":
    """Builds the page; gradio must be installed.

    Args:
      reader: who answers.
      kept: photographs that were uploaded.
      turns: of requests, one of which computes.

    Returns:
      gradio's blocks, whose endpoint "ask" takes the keys of the right and of the left eye's
      photograph ("" for none), the names of the classes, and the target; and gives HTML.
    """
    import gradio as gr

    limits = reader.limits
    ask = functools.partial(_ask, reader, kept, turns)
    with gr.Blocks(title=str(words.TITLE), analytics_enabled=False) as page:
        gr.Markdown(f"# {words.TITLE}")
        gr.HTML(results.head(round(limits.kept_seconds / 60)))
        with gr.Row():
            right, left = (_eye(words.EYES[side]) for side in ORDER)
        classes = gr.Dropdown(
            _choices(reader.offered),
            value=list(reader.chosen),
            multiselect=True,
            max_choices=None if reader.has_head else limits.classes,
            label=str(words.CLASSES),
            visible=not reader.has_head,
        )
        target = _targets(reader.chosen)
        with gr.Row():
            example = gr.Button(str(words.EXAMPLE))
            button = gr.Button(str(words.ASK), variant="primary")
        found = gr.HTML()
        # More places than wait, so that whoever is refused is told so by us.
        most = limits.waiting + 8
        button.click(
            ask, [right, left, classes, target], found, api_name="ask", concurrency_limit=most
        )
        example.click(
            lambda: [kept.put(data) for data in examples.patient()],
            None,
            [right, left],
            api_visibility="private",
            concurrency_limit=most,
        )
        classes.change(
            _targets,
            classes,
            target,
            api_visibility="private",
            concurrency_limit=most,
        )
    page.queue(max_size=4 * (1 + limits.waiting))
    return page


def _ask(
    reader: Reader,
    kept: Kept,
    turns: Turns,
    right: str | None,
    left: str | None,
    classes: Sequence[str] | None,
    target: str | None,
) -> str:
    """Answers a request, whatever it holds."""
    try:
        given = zip(ORDER, (right, left), strict=True)
        keys: dict[Side, str] = {side: key for side, key in given if key}
        if not all(isinstance(key, str) and len(key) <= _LONGEST for key in keys.values()):
            raise Refused(words.FORGOTTEN)
        files: dict[Side, bytes] = {side: kept.get(key) for side, key in keys.items()}
        with turns.turn():
            eyes: dict[Side, Photograph] = {}
            for side, data in files.items():
                eyes[side] = photograph(data, reader.limits)
            answer = reader.answer(eyes, tuple(classes or ()), target or None)
        return results.whole(answer, reader.cases)
    except Refused as error:
        if error.__cause__ is not None:
            _log.warning("%s (%s)", error.said.en, error.__cause__)
        return results.problem(error.said)
    except Exception:  # one request must not end the page, and its innards are nobody's business
        _log.exception("a request failed")
        return results.problem(words.FAILED)


def _eye(title: Words) -> "gr.HTML":
    import gradio as gr

    said = {"reading": str(words.READING), "unreached": str(words.UNREACHED)}
    return gr.HTML(
        "",
        html_template=_EYE.format(title=title, choose=words.CHOOSE, remove=words.REMOVE),
        js_on_load=_EYE_SCRIPT.format(said=json.dumps(said)),
        said="",
    )


def _choices(names: Sequence[str]) -> list[str | int | float | tuple[str, str | int | float]]:
    return [(str(class_name(name)), name) for name in names]


def _targets(names: Sequence[str] | None) -> "gr.Dropdown":
    """Choice of what the heat maps are of."""
    import gradio as gr

    choices = [(str(words.LIKELIEST), LIKELIEST), *_choices(names or ())]
    return gr.Dropdown(choices, value=LIKELIEST, label=str(words.TARGET))
