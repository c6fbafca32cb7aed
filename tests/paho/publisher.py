#!/usr/bin/env python3
"""The publisher everybody has written: connect, publish, wait for the acknowledgement, leave.

    publisher.py --broker 127.0.0.1 --port 1883 --user hmi --password secret --qos 1 TOPIC PAYLOAD [TOPIC PAYLOAD …]
"""

import argparse
import os
import sys
import threading

import paho.mqtt.client as mqtt


def new_client(arguments):
    """paho-mqtt 2 wants to know which callbacks are meant; paho-mqtt 1 has only the old ones."""
    options = {"client_id": arguments.client_id, "protocol": mqtt.MQTTv5 if arguments.v5 else mqtt.MQTTv311}
    if not arguments.v5:
        options["clean_session"] = not arguments.keep_session
    if hasattr(mqtt, "CallbackAPIVersion"):
        return mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, **options)
    return mqtt.Client(**options)


def common_arguments(text):
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--broker", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--client-id", default="")
    parser.add_argument("--qos", type=int, default=0)
    parser.add_argument("--v5", action="store_true", help="MQTT 5 instead of 3.1.1")
    parser.add_argument("--keep-session", action="store_true", help="clean_session false")
    return parser


def main():
    parser = common_arguments(__doc__)
    parser.add_argument("--retain", action="store_true")
    parser.add_argument("--will", nargs=2, metavar=("TOPIC", "PAYLOAD"))
    parser.add_argument("--die", action="store_true", help="leave without a word, so that the will is published")
    parser.add_argument("messages", nargs="*")
    arguments = parser.parse_args()

    client = new_client(arguments)
    if arguments.user:
        client.username_pw_set(arguments.user, arguments.password)
    if arguments.will:
        client.will_set(*arguments.will, qos=1, retain=False)
    refused = []
    answered = threading.Event()

    def on_connect(client, userdata, flags, reason, *rest):
        if reason != 0:
            refused.append(reason)
            client.disconnect()
        answered.set()

    client.on_connect = on_connect
    client.connect(arguments.broker, arguments.port)
    client.loop_start()
    if not answered.wait(10):
        sys.exit("no answer from the broker")
    if refused:
        print(f"refused: {refused[0]}", flush=True)
        sys.exit(2)
    for topic, payload in zip(arguments.messages[::2], arguments.messages[1::2]):
        client.publish(topic, payload, arguments.qos, arguments.retain).wait_for_publish(10)
    if arguments.die:
        os._exit(0)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
