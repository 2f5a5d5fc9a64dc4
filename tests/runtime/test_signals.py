"""The first signal is a wish, the second one an order."""

import os
import signal
import threading
import time

import pytest

from retfm_jax.runtime.signals import StopSignal


def test_the_first_signal_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert stop.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_second_interrupt_interrupts():
    # A shell starts background jobs with SIGINT ignored, and the handler of before comes back.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received == "SIGINT"
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_closed_terminal_is_a_wish_to_stop_unless_it_is_to_be_outlived():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == "SIGHUP"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_cuts_work_short():
    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(100)

    with StopSignal() as stop:
        assert stop.cut_short(lambda: 7) == 7
        assert stop.cut_short(work) is None
        assert stop.received == "SIGTERM"
        assert stop.cut_short(lambda: 7) is None  # it came before


def test_work_that_fails_is_not_cut_short():
    with StopSignal() as stop, pytest.raises(KeyError):
        stop.cut_short(lambda: {}["missing"])


def test_outside_of_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    during = []

    def run():
        with StopSignal() as stop:
            during.append((signal.getsignal(signal.SIGTERM), stop.received))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert during == [(before, None)]
