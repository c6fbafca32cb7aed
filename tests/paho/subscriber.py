#!/usr/bin/env python3
"""The subscriber everybody has written: connect, subscribe, print what comes, for ever.

    subscriber.py --broker 127.0.0.1 --port 1883 --user hmi --password secret --qos 1 'a/+' 'a/#'

Prints a line a message: topic, QoS, retained or live, payload.
"""

import sys

from publisher import common_arguments, new_client


def main():
    parser = common_arguments(__doc__)
    parser.add_argument("--count", type=int, help="leave after so many messages")
    parser.add_argument("--subscribe-only", action="store_true", help="leave as soon as the subscription stands")
    parser.add_argument("filters", nargs="+")
    arguments = parser.parse_args()
    seen = []

    def on_connect(client, userdata, flags, reason, *rest):
        if reason != 0:
            print(f"refused {reason}", flush=True)
            client.disconnect()
            sys.exit(2)
        present = flags["session present"] if isinstance(flags, dict) else flags.session_present
        print(f"connected {'to its old session' if present else 'anew'}", flush=True)
        for topic in arguments.filters:
            client.subscribe(topic, arguments.qos)

    def on_subscribe(client, *rest):
        print("subscribed", flush=True)
        if arguments.subscribe_only:
            client.disconnect()

    def on_message(client, userdata, message):
        kept = "retained" if message.retain else "live"
        print(f"{message.topic} {message.qos} {kept} {message.payload.decode()}", flush=True)
        seen.append(message)
        if arguments.count and len(seen) >= arguments.count:
            client.disconnect()

    client = new_client(arguments)
    if arguments.user:
        client.username_pw_set(arguments.user, arguments.password)
    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.connect(arguments.broker, arguments.port)
    client.loop_forever()


if __name__ == "__main__":
    main()
