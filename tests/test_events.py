"""The events of a batch: plain, frozen data that can be sent anywhere."""

from __future__ import annotations

import dataclasses
import pickle
from typing import get_args

import pytest

from chora_mp import events
from chora_mp.events import BatchCompleted, BatchStarted, ItemCompleted, ItemsCounted
from chora_mp.records import Failure

FAILURE = Failure("ValueError", "bad", "page.j2", 3, ("page.j2:3",))

EVENTS = [
    BatchStarted("b", None),
    ItemCompleted("b", "k", "k.txt", "failed", 0, "", 0.1, 2, "jinja2", FAILURE, (("input_tokens", 3),)),
    BatchCompleted("b", 1, 2, 3, 4, 0.5, "too many failures"),
    ItemsCounted(2, 5, ("a", "b")),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda one: type(one).__name__)
def test_an_event_survives_a_pickle(event: events.Event) -> None:
    """An event comes out of a pickle equal, and cannot be changed."""
    assert event == pickle.loads(pickle.dumps(event))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, dataclasses.fields(event)[0].name, None)


def test_each_event_is_an_event() -> None:
    """Every dataclass of the module is in the union that observers are told."""
    classes = {one for one in vars(events).values() if isinstance(one, type) and dataclasses.is_dataclass(one)}
    assert classes == set(get_args(events.Event))
