"""What the options of `daemon` say about how many tasks run at once, on which GPUs, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.settings import settings_for

from agent.cli.daemon import Wishes
from agent.cli.slots import check_combination, check_hours, layout_of, queue_wishes, services_limit, with_hours
from agent.errors import ConfigError, GpuSpecError, UsageError
from agent.gpu.model import NoGpus, Unknown


def test_wishes_are_read_from_the_queues() -> None:
    found = queue_wishes(["quad=4", "", "any=1-4", "name=with=2"], is_dynamic=True)
    assert found == (("quad", "any", "name=with"), ((4, 4), (1, 4), (2, 2)))
    assert queue_wishes(["quad=4", ""], is_dynamic=False) == (("quad=4",), ())


@pytest.mark.parametrize("entries", [[], ["quad"], ["quad=0"], ["quad=4-2"], ["quad=x"], ["a=1", "A=2"], ["half=0.5"]])
def test_wishes_that_make_no_sense_are_refused(entries: list[str]) -> None:
    with pytest.raises(UsageError):
        queue_wishes(entries, is_dynamic=True)


def test_the_number_of_services_is_read() -> None:
    assert services_limit(()) is None
    assert services_limit(("",)) == 0
    assert services_limit(("-1",)) == 0
    assert services_limit(("7",)) == 7
    for wrong in (("0",), ("x",), ("1", "2"), ("1.5",)):
        with pytest.raises(UsageError):
            services_limit(wrong)


def test_hours_of_the_command_line_replace_both_keys_of_the_configuration() -> None:
    settings = settings_for(downtime=("08-18 MON",))
    assert with_hours(settings, (), ()) is settings
    agent = with_hours(settings, ("20 SUN",), ()).agent
    assert (agent.uptime, agent.downtime) == (("20 SUN",), ())
    with pytest.raises(UsageError, match="exclude"):
        with_hours(settings, ("20 SUN",), ("20 MON",))


def test_hours_of_the_configuration_are_checked_at_the_start() -> None:
    check_hours(settings_for(uptime=("20 SUN",), timezone="Europe/Berlin"))
    with pytest.raises(ConfigError, match="both"):
        check_hours(settings_for(uptime=("20 SUN",), downtime=("20 MON",)))
    with pytest.raises(ConfigError, match="character 1"):
        check_hours(settings_for(downtime=("x SUN",)))
    with pytest.raises(ConfigError, match="time zone"):
        check_hours(settings_for(uptime=("20 SUN",), timezone="Nowhere/At_all"))


DYNAMIC = Wishes(queues=("quad",), ranges=((4, 4),), gpus="0-3")


@pytest.mark.parametrize(
    "wishes",
    [
        replace(DYNAMIC, services=3),
        replace(DYNAMIC, gpus=None),
        replace(DYNAMIC, cpu_only=True),
        Wishes(share=0.5),
        Wishes(share=1.5, gpus="0"),
        replace(DYNAMIC, share=0.5),
    ],
)
def test_options_that_contradict_each_other_are_refused(wishes: Wishes) -> None:
    with pytest.raises(UsageError):
        check_combination(wishes)


def test_gpus_of_another_vendor_are_told_apart_by_their_labels() -> None:
    assert [unit.label for unit in layout_of(("0", "1", "2", "3"), NoGpus(), DYNAMIC).units] == ["0", "1", "2", "3"]
    assert layout_of(("0",), NoGpus(), Wishes(gpus="0")).units == ()
    with pytest.raises(UsageError, match="has 2 GPUs"):
        layout_of(("0", "1"), NoGpus(), DYNAMIC)
    with pytest.raises(GpuSpecError, match="driver is not loaded"):
        layout_of(("0",), Unknown("the driver is not loaded"), Wishes(gpus="0", share=0.5))
