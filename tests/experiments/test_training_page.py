"""The page of a run says where its loss went, and shows what its metrics hold."""

import json

import numpy as np
import pytest

from retfm_jax.config import load_config
from retfm_jax.experiments import training_page


@pytest.fixture
def workdir(tmp_path):
    lines = []
    for step in range(10, 610, 10):
        parts = {"loss_left": 3.0 / step, "loss_right": 2.0 / step}
        rates = {"learning_rate": 1e-4, "grad_norm": 1.0, "samples_per_second": 50.0}
        lines.append({"step": step, "loss": 5 - step / 200, "loss_total": 1.0, **parts, **rates})
        if step % 200 == 0:
            found = {"en/eye": 0.5 + step / 2000, "zh/eye": 0.6}
            lines.append(
                {"step": step} | {f"eval/zero_shot/{k}/auroc": v for k, v in found.items()}
            )
    lines[5]["grad_norm"] = float("nan")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + "damaged\n")
    return tmp_path


def test_the_page_opens_with_what_the_run_came_to(workdir):
    config = load_config("quickstart")
    path = training_page.write(config, workdir)
    text = path.read_text(encoding="utf-8")
    assert path == workdir / "training.html"
    assert text.index("The loss went from 4.95 to") < text.index("<svg")
    assert "zero shot, en, eye" in text
    assert "highest after step 600: 0.800" in text
    assert "Synthetic patients" in text
    assert f"workdir <bdi>{workdir}" in text
    assert "nan" not in text[text.index("<body") :]


def test_charts_have_the_numbers_of_the_file(workdir):
    courses = training_page.read(workdir)
    assert len(courses["grad_norm"][0]) == 59  # one is no number
    panels = {panel.title: panel for panel in training_page.panels(courses)}
    raw, smooth = panels["Loss"].curves
    np.testing.assert_allclose(raw.y, 5 - np.arange(10, 610, 10) / 200)
    np.testing.assert_allclose(smooth.y, raw.y)  # the moving average of a line is that line
    assert [curve.label for curve in panels["Parts of the loss"].curves] == ["left", "right"]
    validation = panels["Validation: AUROC"]
    assert [curve.label for curve in validation.curves] == ["en eye", "zh eye"]
    assert list(validation.curves[0].x) == [200, 400, 600]
    assert len(validation.dots) == 6


def test_a_run_without_metrics_has_no_page_and_one_that_cannot_be_written_ends_nothing(
    workdir, tmp_path_factory, capsys
):
    config, empty = load_config("quickstart"), tmp_path_factory.mktemp("empty")
    assert training_page.write(config, empty) is None
    assert not any(empty.iterdir())
    (workdir / "training.html").mkdir()
    assert training_page.write(config, workdir) is None
    assert "the page of the run is not written" in capsys.readouterr().err
