"""A run can be stopped, killed and resumed anywhere, and says what went wrong where."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import toy_training
from toy_training import Toy, flat, toy_config, toy_data, toy_run

from retfm_jax.config import ProfileConfig
from retfm_jax.errors import UserError
from retfm_jax.runtime import mesh
from retfm_jax.runtime.checkpoints import load_network
from retfm_jax.training import flops, loop
from retfm_jax.training import monitor as log


def _lines_of(text):
    return [json.loads(line) for line in text]


def _lines(workdir):
    return _lines_of((workdir / "metrics.jsonl").read_text().splitlines())


def _start(workdir, *arguments, devices=1, **environment):
    """Trains the toy in another process."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": os.path.join(os.environ["XDG_CACHE_HOME"], "toys"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    environment = os.environ | cache | {"JAX_NUM_CPU_DEVICES": str(devices)} | environment
    command = [sys.executable, toy_training.__file__, str(workdir), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


#: The toy compiles faster for one device; meshes are tested with the step.
pytestmark = pytest.mark.usefixtures("one_device")


def test_each_step_stands_once_in_the_metrics(tmp_path):
    config = toy_config(9)
    toy_run(tmp_path, config)
    shutil.rmtree(tmp_path / "checkpoints" / "9")
    # What a killed run leaves behind: steps after its last checkpoint, and half a line.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')
    before = _lines_of((tmp_path / "metrics.jsonl").read_text().splitlines()[:-1])
    toy_run(tmp_path, config)
    after = _lines(tmp_path)
    assert [line["step"] for line in after] == list(range(1, 10))
    assert [line["loss"] for line in after] == [line["loss"] for line in before]


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = toy_run(tmp_path, toy_config(3))
    again = toy_run(tmp_path, toy_config(3))
    for path, leaf in flat(first).items():
        np.testing.assert_array_equal(flat(again)[path], leaf)
    assert len(_lines(tmp_path)) == 3


def test_workdir_holds_what_is_promised(tmp_path, monkeypatch):
    seen = []

    def evaluate(params, state):
        seen.append(float(params["logit_scale"]))
        return {"auroc": 0.5}

    monkeypatch.setattr(flops, "training_flops", lambda *_: 5_000_000)
    monkeypatch.setattr(flops, "peak_flops", lambda kind, dtype: {"cpu": 1e12}[kind])
    config = toy_config(4)
    train = dataclasses.replace(config.train, evaluate_every=2, profile=ProfileConfig(1, 2))
    toy_run(tmp_path, dataclasses.replace(config, train=train), evaluate=evaluate)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 4
    assert [line["step"] for line in _lines(tmp_path) if "eval/auroc" in line] == [2, 4]
    line = _lines(tmp_path)[0]
    assert {"loss", "accuracy", "grad_norm", "learning_rate"} <= line.keys()
    last = _lines(tmp_path)[-2]  # Behind it stands the evaluation.
    steps_per_second = last["samples_per_second"] / toy_training.BATCH
    assert last["model_flops_per_second"] == pytest.approx(5e6 * steps_per_second)
    assert last["mfu"] == pytest.approx(last["model_flops_per_second"] / 1e12)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert (tmp_path / "checkpoints" / "4").is_dir()
    assert len(seen) == 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What eight steps end with."""
    return flat(toy_run(tmp_path_factory.mktemp("whole"), toy_config(8, every=100)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_says_so_and_returns(tmp_path, capsys, request, undisturbed, number):
    # Tests may run where nohup has it ignored, and then the loop would ignore it, too.
    before = signal.signal(number, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(number, before))
    data = toy_data(signals={3: number.name})
    config = toy_config(8, every=100)
    state = loop.run(config, tmp_path, Toy(config.model), data)
    assert state.step == 4
    assert (tmp_path / "checkpoints" / "4").is_dir()
    said = "".join(capsys.readouterr())
    assert f"stopped by {number.name} after step 4 of 8" in said
    assert str(tmp_path / "checkpoints" / "4") in said
    resumed = flat(toy_run(tmp_path, config))
    for path, leaf in undisturbed.items():
        np.testing.assert_array_equal(resumed[path], leaf, err_msg=path)


def test_a_loss_that_is_not_finite_names_step_records_and_checkpoint(tmp_path):
    with pytest.raises(UserError) as raised:
        toy_run(tmp_path, toy_config(20, every=5), bad=7)
    message = str(raised.value)
    assert message.startswith("step 8: the loss is nan")
    assert "patient-7-0, patient-7-1" in message
    assert "patient-6" not in message
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / '5'}" in message
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["5"]
    stored = json.loads((tmp_path / "nonfinite_step_8.json").read_text())
    assert len(stored["record_ids"]) == toy_training.BATCH


@pytest.mark.parametrize(("backend", "is_told"), [("gpu", True), ("cpu", False)])
def test_where_kernels_are_chosen_by_timing_the_advice_is_to_do_without(
    monkeypatch, backend, is_told
):
    monkeypatch.setattr(log.jax, "default_backend", lambda: backend)
    advice = log._advice()
    assert ("xla_gpu_autotune_level=0" in advice) == is_told
    assert advice.endswith("and start again")


def test_a_state_behind_a_bad_loss_is_never_saved(tmp_path):
    """The bad step is the very one after which a checkpoint is due."""
    with pytest.raises(UserError, match="step 5: the loss"):
        toy_run(tmp_path, toy_config(20, every=5), bad=4)
    assert os.listdir(tmp_path / "checkpoints") == []


def test_an_update_beyond_all_numbers_is_not_saved(tmp_path):
    """The loss of its step was computed before it."""
    with pytest.raises(UserError, match=r"step 1: its update left params/.* not finite"):
        toy_run(tmp_path, toy_config(20, every=1, learning_rate=1e30))
    assert os.listdir(tmp_path / "checkpoints") == []


def test_parameters_that_make_no_finite_loss_are_set_aside_and_the_advice_works(
    tmp_path, monkeypatch
):
    """As if the numbers themselves had looked well: then only the next loss tells."""
    with monkeypatch.context() as patch:
        patch.setattr(log, "not_finite", lambda *_, **__: [])
        with pytest.raises(UserError) as raised:
            toy_run(tmp_path, toy_config(20, every=1, learning_rate=1e30))
    message = str(raised.value)
    assert message.startswith("step 3: the loss is nan")
    assert f"kept in {tmp_path / 'checkpoints' / 'nonfinite-2'}" in message
    toy_run(tmp_path, toy_config(3, every=1))  # what is left of them is seen when it is read
    names = {"1", "2", "3", "nonfinite-1", "nonfinite-2"}
    assert names == set(os.listdir(tmp_path / "checkpoints"))
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2, 3]


def test_a_bad_record_right_after_a_checkpoint_costs_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"step 6: the loss.*checkpoints/5\. "):
        toy_run(tmp_path, toy_config(20, every=5), bad=5)
    assert os.listdir(tmp_path / "checkpoints") == ["5"]


def test_an_optimizer_may_change_on_resume_and_that_is_said(tmp_path, capsys):
    toy_run(tmp_path, toy_config(2))
    capsys.readouterr()
    toy_run(tmp_path, toy_config(3, clip_norm=0.5, decay="all", learning_rate=0.1))
    said = capsys.readouterr().out
    assert "config.optimizer.clip_norm was None and is 0.5" in said
    assert "config.optimizer.decay was 'published' and is 'all'" in said
    assert "config.optimizer.learning_rate was 0.01 and is 0.1" in said
    assert "config.train.steps was 2 and is 3" in said
    assert _lines(tmp_path)[-1]["step"] == 3
    toy_run(tmp_path, toy_config(4, learning_rate=0.1))
    assert _lines(tmp_path)[-1]["step"] == 4


def test_data_that_fail_after_a_save_cost_no_checkpoint(tmp_path):
    data = toy_data()

    def failing(start, mesh):
        for batch in data.open(start, mesh):
            if batch.index == 3:
                raise OSError("the data went away")
            yield batch

    config = toy_config(8, every=3)
    with pytest.raises(OSError, match="the data went away"):
        loop.run(config, tmp_path, Toy(config.model), dataclasses.replace(data, open=failing))
    assert os.listdir(tmp_path / "checkpoints") == ["3"]


def _evaluating(steps, every, checkpoint_every):
    config = toy_config(steps, every=checkpoint_every)
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, evaluate_every=every)
    )


def test_a_signal_ends_an_evaluation_and_the_next_start_makes_up_for_it(tmp_path):
    """Nothing is lost with it, whether a checkpoint was due or not."""
    config = _evaluating(4, every=2, checkpoint_every=100)

    def interrupted(params, state):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(100)

    began = time.monotonic()
    state = toy_run(tmp_path, config, evaluate=interrupted)
    assert time.monotonic() - began < 90
    assert state.step == 2
    assert os.listdir(tmp_path / "checkpoints") == ["2"]
    evaluated = []

    def evaluate(params, state):
        evaluated.append(float(params["logit_scale"]))
        return {"auroc": 0.5}

    toy_run(tmp_path, config, evaluate=evaluate)
    assert [line["step"] for line in _lines(tmp_path) if "eval/auroc" in line] == [2, 4]
    toy_run(tmp_path, config, evaluate=evaluate)
    assert len(evaluated) == 2


def test_a_state_is_saved_before_it_is_evaluated(tmp_path):
    def evaluate(params, state):
        raise KeyError("the evaluation fails")

    with pytest.raises(KeyError, match="the evaluation fails"):
        toy_run(tmp_path, _evaluating(4, every=2, checkpoint_every=2), evaluate=evaluate)
    assert os.listdir(tmp_path / "checkpoints") == ["2"]


def test_weights_to_begin_with_are_asked_for_where_there_is_no_checkpoint(tmp_path):
    """Leftovers of a checkpoint that a kill cut short are none."""
    config = toy_config(1)
    method = Toy(config.model)
    asked = []

    def weights():
        asked.append(True)
        params, state = method.init(jax.random.key(7))
        return params, state.batch_stats

    (tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    for _ in range(2):
        loop.run(config, tmp_path, method, toy_data(), weights=weights)
    assert len(asked) == 1


def test_a_second_run_in_a_workdir_is_refused_and_the_first_one_goes_on(tmp_path):
    data = toy_data()
    config = toy_config(2)

    def opened(start, mesh):
        second = _start(tmp_path)
        output, _ = second.communicate(timeout=300)
        assert second.returncode == 1
        assert f"is in use: process {os.getpid()} on {socket.gethostname()}" in output
        yield from data.open(start, mesh)

    loop.run(config, tmp_path, Toy(config.model), dataclasses.replace(data, open=opened))
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_a_log_has_plain_lines_of_what_happens(tmp_path, capsys):
    config = _evaluating(6, every=3, checkpoint_every=3)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, log_every=2))
    toy_run(tmp_path, config, evaluate=lambda params, state: {"auroc": 0.5})
    said = capsys.readouterr()
    out, err = said.out.splitlines(), said.err.splitlines()
    assert [line.split("  ")[0] for line in err] == ["step 2/6", "step 4/6", "step 6/6"]
    assert all("loss" in line for line in err)
    assert not any(set("\r\x1b█▏") & set(line) for line in out + err)
    for part in (
        "devices     1 x cpu",
        "parameters  20,356, of which 20,353 are trained",
        "10 batches of 16",
        f"workdir     {tmp_path}",
        "compiling",
        "evaluation after step 3",
        "  auroc  0.5000",
        f"finished after step 6 of 6; saved in {tmp_path / 'checkpoints' / '6'}",
    ):
        assert part in said.out


def test_a_screen_that_is_gone_ends_no_run(tmp_path, monkeypatch):
    class Gone:
        encoding = "utf-8"

        def write(self, text):
            raise OSError(5, "Input/output error")

        flush = write

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(sys, "stderr", Gone())
    assert toy_run(tmp_path, toy_config(2)).step == 2


def test_other_data_and_other_networks_are_refused(tmp_path):
    config = toy_config(3)
    toy_run(tmp_path, config)
    other = dataclasses.replace(toy_data(), identity={"source": "another toy"})
    with pytest.raises(UserError, match="source: 'toy' in the checkpoint, 'another toy' now"):
        loop.run(config, tmp_path, Toy(config.model), other)
    narrow = dataclasses.replace(config, model=toy_training.ToyConfig(width=32))
    with pytest.raises(UserError, match=r"config.model.width was 64 and is 32"):
        loop.run(narrow, tmp_path, Toy(narrow.model), toy_data())
    frozen = toy_config(5, frozen=("visual",))
    with pytest.raises(UserError, match=r"belongs to another configuration.*visual"):
        toy_run(tmp_path, frozen)
    assert (tmp_path / "checkpoints" / "3").is_dir()


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(UserError, match="take a multiple of 3"):
        toy_run(tmp_path, toy_config(3, microbatches=3))


def test_data_from_another_position_is_noticed(tmp_path):
    data = dataclasses.replace(
        toy_data(), open=lambda start, mesh: toy_data().open(start + 1, mesh)
    )
    config = toy_config(3)
    with pytest.raises(RuntimeError, match="batch 1 for step 0"):
        loop.run(config, tmp_path, Toy(config.model), data)


def test_killed_five_times_ends_with_the_same_bits(tmp_path):
    steps = np.random.default_rng().choice(np.arange(1, 19), 5, replace=False)
    undisturbed = _start(tmp_path / "whole")
    for step in sorted(steps):
        killed = _start(tmp_path / "killed", "--kill-at", str(step))
        output, _ = killed.communicate(timeout=300)
        assert killed.returncode == -signal.SIGKILL, output
    last = _start(tmp_path / "killed")
    for process in (last, undisturbed):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    with (
        np.load(tmp_path / "whole" / "final.npz") as whole,
        np.load(tmp_path / "killed" / "final.npz") as killed,
    ):
        for path, leaf in whole.items():
            np.testing.assert_array_equal(killed[path], leaf, err_msg=f"{path}, killed at {steps}")
    assert [line["step"] for line in _lines(tmp_path / "killed")] == list(range(1, 21))


def _free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def _start_two(workdir, *arguments, second=()):
    """Two processes of a run; the second one takes further arguments."""
    address = f"localhost:{_free_port()}"
    return [
        _start(
            workdir,
            *arguments,
            *(second if index else ()),
            devices=4,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]


def test_two_processes_train_as_one_stop_together_and_are_continued_by_either(
    tmp_path, monkeypatch
):
    # This process has eight devices, each of the two has four of them.
    monkeypatch.setattr(loop, "make_mesh", mesh.make_mesh)
    config = toy_config(6, every=3)
    toy_run(tmp_path / "one", config)
    # The second process alone is told to stop; both save the same step.
    two = _start_two(
        tmp_path / "two", "--steps", "6", second=("--kill-at", "1", "--signal", "SIGTERM")
    )
    outputs = [process.communicate(timeout=300)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    assert "after step 4 of 6" in outputs[0]
    shutil.copytree(tmp_path / "two", tmp_path / "moved")
    two = _start_two(tmp_path / "two", "--steps", "6")
    outputs = [process.communicate(timeout=300)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    toy_run(tmp_path / "moved", config)
    wanted = flat(load_network(tmp_path / "one")[0])
    wanted_losses = [line["loss"] for line in _lines(tmp_path / "one")]
    assert len(wanted_losses) == 6
    for run in ("two", "moved"):
        losses = [line["loss"] for line in _lines(tmp_path / run)]
        np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
        for path, leaf in flat(load_network(tmp_path / run)[0]).items():
            np.testing.assert_allclose(leaf, wanted[path], atol=1e-4, err_msg=path)


def test_a_run_goes_on_on_another_mesh_with_the_same_losses(tmp_path, monkeypatch):
    whole = toy_run(tmp_path / "whole", toy_config(6, learning_rate=1e-3))
    monkeypatch.setattr(loop, "make_mesh", mesh.make_mesh)
    toy_run(
        tmp_path / "moved",
        toy_config(6, (4, 2), learning_rate=1e-3, every=3),
        signals={2: "SIGTERM"},
    )
    assert len(_lines(tmp_path / "moved")) == 3
    monkeypatch.setattr(loop, "make_mesh", lambda config: mesh.make_mesh(config, jax.devices()[:2]))
    moved = toy_run(tmp_path / "moved", toy_config(6, (1, 2), learning_rate=1e-3))
    losses = [[line["loss"] for line in _lines(tmp_path / run)] for run in ("whole", "moved")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for path, leaf in flat(whole.params).items():
        np.testing.assert_allclose(flat(moved.params)[path], leaf, atol=1e-5, err_msg=path)


def test_a_lost_process_ends_the_other_one_with_a_message(tmp_path):
    two = _start_two(tmp_path, "--steps", "200000", second=("--kill-at", "20"))
    two[1].communicate(timeout=300)
    began = time.monotonic()
    output, _ = two[0].communicate(timeout=300)
    assert two[0].returncode == 1, output
    assert "process 1 of 2 gives no sign of life" in output
    assert f"the last good checkpoint is {tmp_path / 'checkpoints'}" in output
    assert time.monotonic() - began < 60


def test_a_run_goes_on_without_flops_that_cannot_be_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(flops, "training_flops", lambda *_: None)
    toy_run(tmp_path, toy_config(2))
    last = _lines(tmp_path)[-1]
    assert last["samples_per_second"] > 0
    assert not {"model_flops_per_second", "mfu"} & set(last)
