from __future__ import annotations

import pytest

from bench.compare.vanilla import event
from bench.compare.vanilla.event import Subject

ABOUT = {"id": "1", "source": "/c", "type": event.UPDATE, "liflnode": "3", "subject": "1.4.3.0"}


def test_headers_and_fields_there_and_back():
    headers = {k.lower(): v for k, v in event.to_headers(ABOUT).items()}
    found = event.from_headers(headers | {"content-length": "12", "host": "x"})
    assert found == event.Event(ABOUT, 12)
    assert event.from_field(event.to_field(ABOUT)) == ABOUT


@pytest.mark.parametrize("lacking", ["id", "source", "type"])
def test_what_an_event_must_say(lacking):
    headers = event.to_headers({k: v for k, v in ABOUT.items() if k != lacking})
    with pytest.raises(ValueError, match=f"ce-{lacking}"):
        event.from_headers({k.lower(): v for k, v in headers.items()} | {"content-length": "1"})


@pytest.mark.parametrize("length", [{}, {"content-length": "-1"}, {"content-length": "x"}])
def test_a_length_is_needed(length):
    with pytest.raises(ValueError, match="Content-Length"):
        event.from_headers(event.to_headers(ABOUT) | length)


def test_triggers_filter_by_type_and_node():
    assert event.trigger_of(ABOUT) == "node-3"
    assert event.trigger_of(ABOUT | {"type": event.PARTIAL}) == event.TOP
    assert event.trigger_of(ABOUT | {"type": event.MEAN}) is None
    with pytest.raises(ValueError, match="no trigger wants"):
        event.trigger_of(ABOUT | {"type": "other"})
    with pytest.raises(ValueError, match="no trigger wants"):
        event.trigger_of({k: v for k, v in ABOUT.items() if k != "liflnode"})


def test_a_leafs_reply_becomes_one_of_the_rounds_partials():
    reply = {"id": "2", "type": event.PARTIAL, "subject": "7.4.3.0", "liflweight": "21.0"}
    assert event.onward(reply) == reply | {"subject": "7", "liflgoal": "4", "liflfinal": "1"}
    with pytest.raises(ValueError, match="no ROUND"):
        event.onward(reply | {"subject": "7"})


def test_subjects_there_and_back():
    assert Subject.parse(str(Subject(7, 4, 3, 0))) == Subject(7, 4, 3, 0)
