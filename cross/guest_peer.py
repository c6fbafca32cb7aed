"""The meters of cross/boot: two pymodbus servers that speak RTU on TCP, where QEMU connects the guest's UARTs to.
Writes their ports into the file named, and serves until it is ended."""

import sys
import threading

from pymodbus.framer import FramerType

from modbus_peer import TcpPeer, device

peers = [TcpPeer([device(1, registers=[0] * 7 + [1234])], FramerType.RTU).start() for _ in range(2)]
with open(sys.argv[1], "w", encoding="ascii") as ports:
    print(*(peer.port for peer in peers), file=ports)
threading.Event().wait()
