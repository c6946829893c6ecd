"""A stand-in device that does one call after the other, each in a second, behind the host that asks for them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from service.batching.meter import DeviceMeter, HostMeter
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.batching.usage import Usage
from service.jobs import GenerateJob, Receipt

CALL_SECONDS = 1.0


class Device:
    """Its clock is the host's."""

    def __init__(self):
        self.now = 0.0
        self.ends = []  # of the calls that were asked for
        self.num_ahead = []  # calls that were not done, at each one that was asked for

    def clock(self):
        return self.now

    def ask(self, seconds=CALL_SECONDS):
        self.num_ahead.append(sum(end > self.now for end in self.ends))
        self.ends.append(max([self.now, *self.ends[-1:]]) + seconds)

    def mark(self):
        return Mark(self, self.ends[-1])


class Mark:
    def __init__(self, device, end):
        self.device, self.end = device, end

    def synchronize(self):
        self.device.now = max(self.device.now, self.end)


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def meter(device):
    return DeviceMeter(device.mark, device.clock)


def test_on_a_host_a_call_is_charged_when_it_returns():
    meter, one, other = HostMeter(), Usage(), Usage()
    meter.called([(one, 30), (other, 10)], 4.0)
    meter.advanced(other, 0.5)
    meter.settle()
    assert (one.seconds, other.seconds) == (3.0, 1.5)


def test_the_host_is_one_call_ahead_at_most(device, meter):
    for _ in range(10):
        device.ask()
        meter.called([(Usage(), 1)], 0.0)
    assert device.num_ahead == [0] + [1] * 9


def test_each_call_is_charged_its_own_time_and_not_the_next_one(device, meter):
    large, small = Usage(), Usage()
    for _ in range(5):
        for usage, seconds in ((large, 1.0), (small, 0.125)):
            device.ask(seconds)
            meter.called([(usage, 1)], 0.0)
    meter.settle()
    assert (large.seconds, small.seconds) == (5.0, 0.625)


def test_a_device_that_was_idle_charges_nobody_for_it(device, meter):
    usage = Usage()
    device.ask()
    meter.called([(usage, 1)], 0.0)
    meter.settle()
    device.now += 100
    device.now += 0.25  # in which the host asks for a call
    device.ask()
    meter.called([(usage, 1)], 0.25)
    meter.settle()
    assert usage.seconds == 2.25


def test_what_a_script_does_beside_a_call_is_charged_once(device, meter):
    first, newcomer = Usage(), Usage()
    meter.advanced(newcomer, 0.0)
    device.ask()
    meter.called([(first, 1)], 0.0)
    device.now += 0.5
    meter.advanced(first, 0.5)
    meter.settle()
    device.now += 2.0
    meter.advanced(newcomer, 2.0)
    assert (first.seconds, newcomer.seconds) == (1.0, 2.0)


def test_calls_are_counted_when_they_are_charged(device, meter):
    usage = Usage()
    for _ in range(2):
        device.ask()
        meter.called([(usage, 1)], 0.0)
    assert (usage.seconds, usage.num_calls) == (1.0, 1)
    meter.settle()
    assert (usage.seconds, usage.num_calls) == (2.0, 2)


def test_the_jobs_of_a_runner_are_charged_what_the_device_did_for_them(bench, device, meter):
    """Also the last call of each, when its receipt comes."""

    def predict(unet, calls):
        device.ask()
        return bench.predict(unet, calls)

    options = {"start": bench.start, "predict": predict, "meter": meter, "clock": device.clock}
    runner = Runner(SimpleNamespace(unet=None), None, Limits(), **options)
    usages = {name: Usage() for name in "ab"}
    bench.scripts = {"a": lambda name: bench.plain(name, 2), "b": lambda name: bench.plain(name, 3, shape_key="other")}
    for name, usage in usages.items():
        runner.add(name, GenerateJob(name), usage=usage)
    told = {}
    while not runner.idle:
        for name, event in runner.step():
            if isinstance(event, Receipt):
                told[name] = usages[name].seconds
    assert told == {"a": 2.0, "b": 3.0}
    assert device.now == 5.0
