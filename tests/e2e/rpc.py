"""A call over MQTT 5 and its answer: send, wait for the answer with one's own correlation, time out."""

import json
import queue
import threading
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cloud import client


class Rpc:
    """One connection; calls may be made from several threads."""

    def __init__(self, port, answers=None):
        self.topic = answers or f"answers/{uuid.uuid4().hex}"
        self.calls = {}
        self.granted = threading.Event()
        self.client = client(f"rpc-{uuid.uuid4().hex[:12]}", mqtt.MQTTv5)
        self.client.on_connect = lambda c, *_: c.subscribe(self.topic, 1)
        self.client.on_subscribe = lambda *_: self.granted.set()
        self.client.on_message = self._answered
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.granted.wait(10)

    def _answered(self, _client, _data, message):
        call = self.calls.get(message.properties.CorrelationData)
        if call is not None:
            call.put(json.loads(message.payload))

    def begin(self, topic, payload="", expiry=None, **options):
        """Sends, and gives what waits for the answers to this call."""
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = self.topic
        properties.CorrelationData = uuid.uuid4().bytes
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        call = self.calls[properties.CorrelationData] = queue.Queue()
        text = payload if isinstance(payload, str) else json.dumps(payload)
        self.client.publish(topic, text, qos=1, properties=properties, **options)
        return call

    def call(self, topic, payload="", within=20, **options):
        try:
            return self.begin(topic, payload, **options).get(timeout=within)
        except queue.Empty:
            raise TimeoutError(f"{topic}: no answer within {within} s") from None

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()
