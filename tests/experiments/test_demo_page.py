"""The page as its visitors reach it: over HTTP, with all that they may send."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gradio_client
import httpx
import numpy as np
import pytest
from demo_world import cases, encoded, of_texts, patient, pixels
from PIL import Image

from retfm_jax.errors import UserError
from retfm_jax.experiments.demo import serving, words
from retfm_jax.experiments.demo.answers import Reader
from retfm_jax.experiments.demo.guard import Limits

LIMITS = Limits(file_bytes=100_000, waiting=4, shown=1, uploads=2)
OURS = {"X-Retfm": "1"}
CLASSES = ["normal", "drusen"]


@contextlib.contextmanager
def served(reader):
    """A server that runs in a thread, and its address."""
    with serving.listening("127.0.0.1", 0) as door, serving.own_folder() as folder:
        server = serving.make_server(reader)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.02)
            yield f"http://127.0.0.1:{door.getsockname()[1]}", folder
        finally:
            server.should_exit = True
            thread.join(30)


class Counted(Reader):
    """Counts those who are answered at one time."""

    def __init__(self, *args):
        super().__init__(*args)
        self.inside, self.most, self.lock = 0, 0, threading.Lock()

    def answer(self, *args):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            return super().answer(*args)
        finally:
            with self.lock:
                self.inside -= 1


@pytest.fixture(scope="module")
def reader():
    model = of_texts()
    return Counted(model, LIMITS, cases(model, [patient(1, "<b>Drusen</b>.", ("drusen",))]))


@pytest.fixture(scope="module")
def server(reader):
    with served(reader) as (address, folder):
        yield address, folder


@pytest.fixture(scope="module")
def address(server):
    return server[0]


@pytest.fixture(scope="module")
def client(address):
    return gradio_client.Client(address, verbose=False, analytics_enabled=False)


def upload(address, data, **headers):
    return httpx.post(f"{address}/photograph", content=data, headers={**OURS, **headers})


def key_of(address, seed=0):
    return upload(address, encoded(pixels(seed))).json()["key"]


def ask(client, right="", left="", classes=CLASSES, target=""):
    return client.predict(right, left, classes, target, api_name="/ask")


def test_both_eyes_are_answered_in_both_languages(address, client):
    found = ask(client, key_of(address, 0), key_of(address, 1))
    for said in (words.NOTICE, words.BOTH_EYES, *words.EYES.values(), *words.class_name("drusen")):
        for text in (said,) if isinstance(said, str) else said:
            assert text in found
    for said in words.LANGUAGE_OF_PROMPTS.values():
        assert said.en in found
    assert len(re.findall(r"\d\.\d%</?span|%<span", found)) == 12  # 2 classes, 3 views, 2 prompts
    assert "SECRET" not in found
    assert "&lt;b&gt;Drusen&lt;/b&gt;" in found
    assert "<b>Drusen" not in found


def test_the_photograph_is_shown_and_forgotten_when_told_so(address, client):
    key = key_of(address)
    shown = httpx.get(f"{address}/photograph/{key}")
    assert shown.headers["content-type"] == "image/jpeg"
    assert shown.headers["cache-control"] == "no-store"
    assert httpx.delete(f"{address}/photograph/{key}", headers=OURS).status_code == 204
    assert httpx.get(f"{address}/photograph/{key}").status_code == 404
    assert words.FORGOTTEN.zh in ask(client, key)


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"", 422, words.EMPTY),
        (b"\0" * 100_001, 413, words.TOO_LARGE.filled(megabytes=0)),
        (b"\0" * 30_000_000, 413, words.TOO_LARGE.filled(megabytes=0)),
        (b"MZ\x90 not an image", 422, words.NO_IMAGE),
        (encoded(pixels(0))[:-2000], 422, words.DAMAGED),
    ],
)
def test_what_is_no_photograph_is_refused_with_a_sentence(address, data, status, said):
    reply = upload(address, data)
    assert reply.status_code == status
    assert reply.json() == {"said": f"{said.en}\n{said.zh}", "en": said.en, "zh": said.zh}


def test_a_file_of_unstated_length_is_counted_while_it_comes(address):
    reply = upload(address, (b"\0" * 50_000 for _ in range(4)))
    assert reply.status_code == 413


def test_a_gif_of_many_frames_is_refused(address, tmp_path):
    frames = [Image.fromarray(np.roll(pixels(0), n, 0)).quantize(8) for n in range(60)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    reply = upload(address, (tmp_path / "x.gif").read_bytes())
    assert reply.json()["zh"] == words.SEVERAL_FRAMES.zh


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "a" * 500, "\x00", "é"]
)
def test_a_name_that_looks_like_a_path_leads_nowhere(address, client, name):
    assert words.FORGOTTEN.en in ask(client, name)
    quoted = httpx.URL(f"{address}/photograph/").copy_with(
        raw_path=b"/photograph/"
        + (name.encode().replace(b"\x00", b"%00").replace(b"\xc3\xa9", b"%C3%A9"))
    )
    assert httpx.get(quoted).status_code in (400, 404)


def test_gradio_takes_and_gives_no_files(address):
    files = {"files": ("../../evil.jpg", encoded(pixels(0)))}
    assert httpx.post(f"{address}/gradio_api/upload", files=files).status_code == 404
    for path in (
        "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/upload_progress", "/monitoring",
        "/gradio_api/vibe-edit", "/docs", "/openapi.json", "/gradio_api/runs",
    ):  # fmt: skip
        assert httpx.get(address + path).status_code == 404, path


@pytest.mark.parametrize(
    ("classes", "target", "said"),
    [
        (["normal", "drusen"], "amd", "amd"),
        (["normal", "my own"], "", "my own"),
    ],
)
def test_a_choice_that_the_page_does_not_have_is_not_answered(
    address, client, classes, target, said
):
    with pytest.raises(Exception, match=said):
        ask(client, key_of(address), classes=classes, target=target)


def test_without_a_photograph_the_page_asks_for_one(client):
    found = ask(client)
    assert words.NO_PHOTOGRAPH.en in found
    assert words.NO_PHOTOGRAPH.zh in found


def test_twenty_at_once_are_answered_or_told_to_come_back(address, client, reader):
    data, reader.most = encoded(pixels(0)), 0
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        keys = [reply.json()["key"] for reply in pool.map(lambda _: upload(address, data),
                                                          range(20))]  # fmt: skip
        found = list(pool.map(lambda key: ask(client, key), keys))
    answered = [words.PROBABILITIES.en in each for each in found]
    busy = [words.BUSY.en in each and words.BUSY.zh in each for each in found]
    assert len(set(keys)) == 20
    assert all(one != other for one, other in zip(answered, busy, strict=True))
    assert sum(answered) >= 1 + LIMITS.waiting
    assert reader.most == 1
    assert words.PROBABILITIES.en in ask(client, keys[0])


def test_a_failure_is_a_sentence_and_no_innards(address, client, reader, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("innards")

    monkeypatch.setattr(reader, "answer", fail)
    found = ask(client, key_of(address))
    assert words.FAILED.en in found
    assert words.FAILED.zh in found
    assert "innards" not in found
    assert "innards" in caplog.text


def test_generated_eyes_can_be_chosen(address):
    config = httpx.get(f"{address}/config").json()
    (made,) = [d for d in config["dependencies"] if not d["inputs"] and len(d["outputs"]) == 2]
    body = {"data": [], "fn_index": made["id"], "session_hash": "x"}
    assert httpx.post(f"{address}/gradio_api/queue/join", json=body).status_code == 200
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash=x") as stream:
        for line in stream.iter_lines():
            if "process_completed" in line:
                keys = json.loads(line.removeprefix("data: "))["output"]["data"]
                break
    for key in keys:
        assert httpx.get(f"{address}/photograph/{key}").headers["content-type"] == "image/jpeg"


def test_other_sites_can_neither_send_nor_read(address):
    data = encoded(pixels(0))
    assert httpx.post(f"{address}/photograph", content=data).status_code == 403
    key = key_of(address)
    assert httpx.delete(f"{address}/photograph/{key}").status_code == 403
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    reply = httpx.options(f"{address}/photograph", headers=asked)
    assert "access-control-allow-origin" not in reply.headers
    page = httpx.get(address)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


def test_a_large_request_of_another_kind_is_not_read(address):
    url = f"{address}/gradio_api/queue/join"
    assert httpx.post(url, content=b"{" + b" " * 70_000).status_code == 413


def test_nothing_is_told_to_others(address):
    config = httpx.get(f"{address}/config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history")
    assert not config["footer_links"]


def test_nothing_was_written(server, client):
    ask(client, key_of(server[0]))
    assert not [path for path in Path(server[1]).rglob("*") if path.is_file()]


def test_a_port_that_is_taken_is_said_before_anything_is_read(address):
    port = int(address.rpartition(":")[2])
    with pytest.raises(UserError, match=f"port {port} of 127.0.0.1.*choose another"):
        serving.demo("nowhere", port=port)
    with pytest.raises(UserError, match="cannot listen"):
        serving.demo("nowhere", host="no.such.host.invalid", port=0)


def test_without_gradio_the_page_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="gradio"):
        serving.demo("nowhere")


def test_the_command_serves_this_machine_and_leaves_nothing(tmp_path):
    of_texts().save(tmp_path / "model")
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "retfm_jax.cli", "demo", "--workdir", tmp_path / "model"]
    process = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        told = next(line for line in lines if "http://" in line)
        found = re.match(r"(http://127\.0\.0\.1:\d+) \(only this machine reaches it\)", told)
        assert found, told
        assert key_of(found[1])
        assert list((tmp_path / "tmp").glob("retfm_demo_*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert not list((tmp_path / "tmp").iterdir())
