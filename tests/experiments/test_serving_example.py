"""The example of a service answers what the network answers, and refuses the rest in a sentence."""

import concurrent.futures
import dataclasses
import importlib.util
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from demo_world import build, encoded, of_texts, pixels
from starlette.testclient import TestClient

from retfm_jax.decisions import Conformal
from retfm_jax.experiments.exporting import write_program
from retfm_jax.interop.formats import get_form

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "docs" / "serving"
CLASSES = ("normal", "drusen", "青光眼")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("serving_app", SERVING / "app.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # FastAPI looks for the types of annotations there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model():
    made = build("classifier", classes=CLASSES, outcome="exclusive")
    made.decisions = dataclasses.replace(
        made.decisions, temperature=1.5, conformal=Conformal(0.9, (0.7,))
    )
    return made


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "exported"
    write_program(model, get_form("onnx"), out)
    return out


@pytest.fixture(scope="module")
def client(example, folder):
    with TestClient(example.make_app(folder, megabytes=0.1)) as client:
        yield client


def test_the_answer_is_what_the_network_says(client, model):
    reply = client.post("/predict", content=encoded(pixels(3)))
    assert reply.status_code == 200
    said = reply.json()
    assert list(said) == ["classes", "probabilities", "set", "notice"]
    wanted = model.predict([pixels(3)])
    np.testing.assert_allclose(list(said["probabilities"].values()), wanted[0], atol=1e-5)
    assert list(said["probabilities"]) == list(CLASSES)
    assert said["classes"] == [CLASSES[int(model.decisions.predicted(wanted)[0])]]
    inside = model.decisions.sets(wanted)[0]
    assert said["set"] == [name for name, is_in in zip(CLASSES, inside, strict=True) if is_in]
    assert "Not a medical device" in said["notice"]


def test_it_says_what_it_knows_and_that_it_is_well(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    about = client.get("/about").json()
    assert about["classes"] == list(CLASSES)
    assert about["outcome"] == "exclusive"
    schema = client.get("/openapi.json").json()
    answer = schema["components"]["schemas"]["Answer"]
    assert set(answer["properties"]) == {"classes", "probabilities", "set", "notice"}
    assert set(schema["paths"]["/predict"]["post"]["responses"]) >= {"200", "413", "422", "503"}


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"", 422, "empty"),
        (b"no image", 422, "not a readable image"),
        (encoded(pixels(0))[:-2000], 422, "damaged"),
        (b"\0" * 100_001, 413, "at most 0.1 MB"),
        ((b"\0" * 60_000 for _ in range(1000)), 413, "at most 0.1 MB"),
    ],
)
def test_what_is_no_photograph_is_refused(client, data, status, said):
    reply = client.post("/predict", content=data)
    assert reply.status_code == status
    assert said in reply.json()["detail"]


def test_twenty_at_once_are_answered_or_told_to_come_back(example, folder, monkeypatch):
    enough, most, inside, lock = threading.Event(), [], [], threading.Lock()
    read_export = example.read_export

    def watched(path):
        module = read_export(path)
        load = module.load

        def watched_load():
            program = load()
            decide = program.decide

            def waiting(photographs):
                with lock:
                    inside.append(1)
                    most.append(len(inside))
                enough.wait(20)
                found = decide(photographs)
                inside.pop()
                return found

            program.decide = waiting
            return program

        module.load = watched_load
        return module

    monkeypatch.setattr(example, "read_export", watched)
    data, statuses = encoded(pixels(0)), []
    with TestClient(example.make_app(folder, at_once=2, waiting=3)) as client:

        def post(_):
            statuses.append(client.post("/predict", content=data).status_code)
            if statuses.count(503) == 15:
                enough.set()

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(post, range(20)))
        assert client.post("/predict", content=data).status_code == 200
    assert sorted(statuses) == [200] * 5 + [503] * 15
    assert max(most) == 2


def test_what_cannot_be_served_is_said_at_the_start(example, tmp_path):
    with pytest.raises(SystemExit, match=r"model\.py does not exist"):
        example.make_app(tmp_path)
    write_program(of_texts(), get_form("torch"), tmp_path / "texts")
    with pytest.raises(SystemExit, match="has no classes"):
        example.make_app(tmp_path / "texts")


def test_the_image_installs_the_versions_that_the_tests_ran_with():
    wanted = (SERVING / "requirements.txt").read_text().split()
    assert set(wanted) <= set((ROOT / "constraints.txt").read_text().split())
    assert len(wanted) == 6
    dockerfile = (SERVING / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--)(\S+)", dockerfile, re.MULTILINE)
    assert all((SERVING / name).is_file() for name in copied)
    assert "USER nobody" in dockerfile
