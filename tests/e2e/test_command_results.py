"""Every result that an asker can hear, through a call over MQTT 5 and through `…/result` for those who speak 3.1.1."""

import asyncio
import json
import re
import threading
import time

import pytest
from pymodbus.constants import ExcCodes

from gateway import ROOT
from modbus_peer import HOLDING, SerialPeer, TcpPeer, device
from rpc import Rpc
from waiting import eventually

YAML = """
gateway: plant
lines:
  plc: {line}
devices:
  - name: chiller
    line: plc
    unit_id: 1
    every: 1h
    points:
      setpoint: {{holding: 0, type: i16, scale: 0.1, write: {{min: 4, max: 18, step: 0.5}}}}
      mode: {{holding: 1, values: {{0: stopped, 1: cooling}}, write: true}}
      limited: {{holding: 2, write: true}}
      busy: {{holding: 3, write: true}}
      unverified: {{holding: 4, write: {{verify: false}}}}
      energy: {{holding: 6, type: u32}}
      nowhere: {{holding: 5000, write: true}}
broker: {{listen: [{{tcp: 127.0.0.1:{port}}}]}}
"""
SET = "plant/chiller/{}/set"


class Machine:
    """A device that limits one register by itself, is busy with another, and can be held up in the middle of a write."""

    def __init__(self):
        self.open = threading.Event()
        self.open.set()
        self.held = threading.Event()
        self.writes = []

    def hold(self):
        self.held.clear()
        self.open.clear()

    async def action(self, function, start, address, count, registers, new):
        if function == HOLDING:
            # It has confirmed what was written and makes of it what it can.
            registers[2 - start] = min(registers[2 - start], 50)
        if new is None:
            return None
        self.writes.append((address, list(new)))
        if not self.open.is_set():
            self.held.set()
            await asyncio.get_running_loop().run_in_executor(None, self.open.wait, 30)
        return ExcCodes.DEVICE_BUSY if address == 3 else None


@pytest.fixture
def site(make_gateway, begin, port, witness):
    def make(peer=TcpPeer):
        machine = Machine()
        plc = begin(peer([device(1, [60, 0, 0, 0, 0, 0, 0, 7], action=machine.action)]).start())
        # Long enough for a device that is held up.
        line = f"{{tcp: 127.0.0.1:{plc.port}, timeout: 20s}}" if peer is TcpPeer else plc.line()
        gateway = make_gateway(YAML.format(line=line, port=port)).start()
        eventually(lambda: gateway.device("chiller")["state"] == "online", hoped="the device answers")
        return plc, machine, gateway, begin(Rpc(port)), witness(port, "plant/#")

    return make


def test_what_is_written_is_told_with_the_value_found_the_time_and_how_long_it_took(site):
    plc, machine, _, rpc, _ = site()
    answer = rpc.call(SET.format("setpoint"), {"value": 9.5, "id": "a7"})
    assert (answer["result"], answer["value"], answer["id"]) == ("written", 9.5, "a7")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["time"]) and 0 <= answer["duration_ms"] < 20_000
    assert set(answer) == {"result", "value", "id", "time", "duration_ms"} and plc.get(1, 0) == 95
    assert rpc.call(SET.format("mode"), "cooling")["value"] == "cooling"
    unverified = rpc.call(SET.format("unverified"), "3")
    assert unverified["result"] == "written" and "value" not in unverified, "what was not read back is not claimed"
    assert [address for address, _ in machine.writes] == [0, 1, 4]


@pytest.mark.parametrize("topic, payload, words", [
    (SET.format("setpoint"), "30", "30 is outside 4 to 18"),
    (SET.format("setpoint"), "6.3", "6.3 is not a whole number of steps of 0.5 from 4"),
    (SET.format("setpoint"), "warm", "warm is a text, i16 wants a number"),
    (SET.format("setpoint"), "", "it is empty"),
    (SET.format("setpoint"), '{"valve": 7}', "unknown key `valve`"),
    (SET.format("mode"), "melting", "`melting` is none of stopped, cooling"),
    (SET.format("limited"), "70000", "70000 does not fit u16: it holds 0 to 65535"),
    (SET.format("energy"), "1", "`energy` is not writable"),
    (SET.format("nothing"), "1", "no point `plant/chiller/nothing/set`"),
    ("plant/nobody/p/set", "1", "no point `plant/nobody/p/set`"),
    ("plant/nobody/set", "{}", "no device `nobody`"),
    (SET.format("setpoint"), {"value": 7, "expires": "2001-01-01T00:00:00Z"}, "expired "),
    (SET.format("setpoint"), {"value": 7, "expires": 10}, "`expires` is 10, it wants a time"),
])
def test_what_is_refused_is_refused_before_the_first_byte_in_words(site, topic, payload, words):
    _, machine, _, rpc, near = site()
    answer = rpc.call(topic, payload)
    assert answer["result"] == "refused" and words in answer["reason"], answer
    eventually(lambda: near.json(topic + "/result")["reason"] == answer["reason"], hoped="all others hear the same")
    assert not machine.writes


def test_a_retained_command_is_refused_to_its_asker(site):
    _, machine, _, rpc, _ = site()
    answer = rpc.call(SET.format("setpoint"), "8", retain=True)
    assert answer["result"] == "refused" and "publish without the retain flag" in answer["reason"]
    assert not machine.writes


def test_a_command_that_outlives_its_message_while_it_waits_is_refused(site):
    plc, machine, _, rpc, _ = site()
    machine.hold()
    first = rpc.begin(SET.format("limited"), "1")
    assert machine.held.wait(10)
    late = rpc.begin(SET.format("setpoint"), "8", expiry=1)
    in_time = rpc.begin(SET.format("mode"), "1", expiry=60)
    all_before_are_taken_in(rpc)
    asked = time.monotonic()
    eventually(lambda: time.monotonic() - asked > 1.5, hoped="its time is over")
    machine.open.set()
    assert first.get(timeout=20)["result"] == "written"
    answer = late.get(timeout=20)
    assert answer["result"] == "refused" and re.match(r"expired \d+ ms ago", answer["reason"]), answer
    assert in_time.get(timeout=20)["result"] == "written" and plc.get(1, 0) == 60


def test_who_asks_again_while_it_is_under_way_hears_the_same_on_a_topic_of_their_own(site, begin, port):
    _, machine, _, one, _ = site()
    two, command = begin(Rpc(port)), {"value": 8, "id": "once"}
    machine.hold()
    first = one.begin(SET.format("setpoint"), command)
    assert machine.held.wait(10)
    again = one.begin(SET.format("setpoint"), command)
    other = two.begin(SET.format("setpoint"), command)
    behind = two.begin(SET.format("mode"), "1")
    for rpc in (one, two):
        all_before_are_taken_in(rpc)
    machine.open.set()
    answers = [call.get(timeout=20) for call in (first, again, other)]
    assert answers[0]["result"] == "written" and answers[0] == answers[1] == answers[2], answers
    assert behind.get(timeout=20)["result"] == "written"
    assert machine.writes == [(0, [80]), (1, [1])], "it was done once"
    later = two.call(SET.format("setpoint"), command)
    assert later == answers[0] and first.empty() and again.empty() and other.empty()


def test_a_newer_command_takes_the_place_of_one_that_waits(site):
    plc, machine, _, rpc, _ = site()
    machine.hold()
    under_way = rpc.begin(SET.format("mode"), "1")
    assert machine.held.wait(10)
    older, newer = rpc.begin(SET.format("setpoint"), "8"), rpc.begin(SET.format("setpoint"), "9")
    all_before_are_taken_in(rpc)
    machine.open.set()
    assert under_way.get(timeout=20)["result"] == "written"
    replaced = older.get(timeout=20)
    assert replaced == {**replaced, "result": "refused", "reason": "replaced by a newer command before it was its turn"}
    assert newer.get(timeout=20)["value"] == 9 and plc.get(1, 0) == 90
    assert [address for address, _ in machine.writes] == [1, 0]


def all_before_are_taken_in(rpc):
    """What is refused needs no line: its answer says that the commands before it have been understood."""
    assert rpc.call("plant/chiller/nothing/get")["result"] == "refused"


def test_a_line_with_too_many_commands_says_so_and_the_same_id_may_be_asked_again(site):
    _, machine, _, rpc, _ = site()
    machine.hold()
    rpc.begin(SET.format("mode"), "1")
    assert machine.held.wait(10)
    waiting = [rpc.begin("plant/chiller/energy/get", {"id": n}) for n in range(80)]
    busy = eventually(lambda: [call for call in waiting if not call.empty()], hoped="some are told that the line is busy")
    answer = busy[0].get(timeout=20)
    assert answer["result"] == "refused" and answer["reason"].startswith("busy: too many commands"), answer
    machine.open.set()
    eventually(lambda: rpc.call("plant/chiller/energy/get", {"id": answer["id"]})["result"] == "read",
               hoped="the same is done when there is room again")


def test_a_device_that_is_silent_is_told(site):
    plc, _, _, rpc, _ = site(SerialPeer)
    plc.cable.dead.add(1)
    answer = rpc.call(SET.format("setpoint"), "8")
    assert answer == {**answer, "result": "failed", "reason": "timeout: the device did not answer"}
    plc.cable.dead.clear()
    # pymodbus may still have a piece of the question that did not pass, and spoil the next one with it.
    eventually(lambda: rpc.call(SET.format("setpoint"), "8")["result"] == "written", hoped="the device is heard again")


def test_a_line_that_is_down_is_told(site):
    plc, _, _, rpc, _ = site()
    plc.stop()
    answer = rpc.call(SET.format("setpoint"), "8")
    assert answer["result"] == "failed" and answer["reason"].startswith("line down: "), answer


def test_an_exception_is_told_by_its_number_and_in_words(site):
    _, _, _, rpc, _ = site()
    answer = rpc.call(SET.format("busy"), "1")
    assert answer == {**answer, "result": "failed", "reason": "exception 6: server device busy"}, answer
    answer = rpc.call(SET.format("nowhere"), "1")
    assert answer == {**answer, "result": "failed", "reason": "exception 2: illegal data address"}, answer


def test_a_device_that_makes_something_else_of_it_is_told_with_what_it_shows(site):
    _, _, _, rpc, near = site()
    answer = rpc.call(SET.format("limited"), "80")
    assert answer == {**answer, "result": "failed", "value": 50, "reason": "verify: the device shows 50"}, answer
    eventually(lambda: near.json("plant/chiller/limited")["value"] == 50, hoped="and everybody sees what it holds")


def test_a_batch_says_what_became_of_each_of_its_writes(site):
    _, machine, _, rpc, _ = site()
    writes = [{"point": "setpoint", "value": 9}, {"point": "busy", "value": 1}, {"point": "mode", "value": "cooling"}]
    answer = rpc.call("plant/chiller/set", {"writes": writes})
    assert answer["result"] == "failed" and [w["result"] for w in answer["writes"]] == ["written", "failed", "refused"]
    assert answer["writes"][0]["value"] == 9 and "exception 6" in answer["writes"][1]["reason"]
    assert answer["writes"][2]["reason"] == "not written: an earlier one of the batch failed"
    assert [address for address, _ in machine.writes] == [0] + [3] * (len(machine.writes) - 1)


def test_a_call_that_nobody_answers_times_out(site):
    _, _, _, rpc, _ = site()
    with pytest.raises(TimeoutError):
        rpc.call("another-plant/chiller/setpoint/set", "8", within=0.5)


def test_without_mqtt_5_the_answer_is_found_by_its_id(site):
    _, _, _, _, near = site()
    topic = SET.format("setpoint")
    for value, mark in ((7, "x"), (99, "y"), (8, "z")):
        near.client.publish(topic, json.dumps({"value": value, "id": mark}), qos=1)
    heard = lambda: {a["id"]: a["result"] for a in map(json.loads, near.by_topic[topic + "/result"])}  # noqa: E731
    eventually(lambda: len(heard()) == 3, hoped="all three are answered")
    assert heard()["y"] == "refused" and heard()["z"] == "written" and heard()["x"] in ("written", "refused")


def test_the_call_in_the_documentation_works_as_it_stands(site, port):
    plc, _, _, _, _ = site()
    page = (ROOT / "docs/commands.md").read_text()
    names = {}
    exec(re.search(r"```python\n(import.*?)```", page, re.S)[1], names)  # noqa: S102
    caller = names["Caller"]("127.0.0.1", port)
    try:
        answer = caller.call("plant/chiller/setpoint/set", {"value": 7.5, "id": "a7"})
        assert (answer["result"], answer["value"], answer["id"]) == ("written", 7.5, "a7") and plc.get(1, 0) == 75
        assert caller.call("plant/chiller/energy/get", {})["value"] == 7
        with pytest.raises(TimeoutError):
            caller.call("nowhere/chiller/setpoint/set", 1, timeout=1)
        assert not caller.waiting
    finally:
        caller.client.disconnect()
        caller.client.loop_stop()
