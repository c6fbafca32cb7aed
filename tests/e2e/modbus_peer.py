"""Devices that are not our own code: pymodbus servers, on a pseudo terminal or on TCP, in a thread of their own."""

import asyncio
import os
import select
import threading
import time
import tty

from pymodbus.exceptions import NoSuchIdException
from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerType
from pymodbus.pdu import ExceptionResponse
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest, ReadDeviceInformationResponse
from pymodbus.pdu.register_message import MaskWriteRegisterRequest
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from waiting import free_port

HOLDING = 3
REGISTERS = 1000


def device(unit_id, registers=None, input_registers=None, coils=None, discretes=None, action=None):
    """A device with 1000 registers of each kind and 1000 bits of each kind; everything above does not exist."""
    tables = [_table(coils, DataType.BITS), _table(discretes, DataType.BITS),
              _table(registers, DataType.REGISTERS), _table(input_registers, DataType.REGISTERS)]
    return SimDevice(unit_id, simdata=tuple(tables), action=action)


def _table(first, kind):
    empty = False if kind == DataType.BITS else 0
    first = list(first or [])
    return [SimData(0, values=first + [empty] * (REGISTERS - len(first)), datatype=kind)]


class Counting:
    """An action that gives every holding register the number of the read it is answered in. So each poll is a new value,
    and a value that is missing, repeated or misplaced shows."""

    def __init__(self):
        self.reads = 0

    def action(self):
        async def answer(function, start, address, count, registers, new):
            if function == HOLDING and new is None:
                self.reads += 1
                registers[address - start : address - start + count] = [self.reads & 0xFFFF] * count

        return answer


class Peer:
    """A server in its own thread and event loop."""

    def __init__(self, devices):
        self.devices = devices
        self.loop = asyncio.new_event_loop()
        self.failure = None
        self.server = None
        self.listening = threading.Event()
        # Every question as it came: unit and PDU.
        self.frames = []
        # By unit: what each says of itself, as {object id: text}. Who is not in it does not know the question.
        self.identities = {}
        # Units that do not know mask write.
        self.maskless = set()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self.thread.start()
        assert self.listening.wait(10) and self.failure is None, f"pymodbus does not start: {self.failure}"
        return self

    def _run(self):
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._listen())
        except Exception as error:  # handed to the thread that waits
            self.failure = error
            self.listening.set()
            return
        self.listening.set()
        self.loop.run_forever()

    def hears(self, sending, data):
        if not sending and data:
            self.frames.append(self.unframed(bytes(data)))
        return data

    def own_pdus(self):
        """pymodbus knows all functions; devices differ."""
        peer = self

        class Mask(MaskWriteRegisterRequest):
            async def datastore_update(self, context, device_id):
                if device_id in peer.maskless:
                    return ExceptionResponse(self.function_code, ExcCodes.ILLEGAL_FUNCTION)
                return await super().datastore_update(context, device_id)

        return [Mask]

    async def _listen(self):
        self.server = self.make()
        self.server.context.identities = self.identities
        silence_for_strangers(self.server.context)
        await self.server.serve_forever(background=True)

    def put(self, unit_id, address, values, function=16):
        """Changes what the device holds."""
        job = self.server.context.async_setValues(unit_id, function, address, values)
        return asyncio.run_coroutine_threadsafe(job, self.loop).result(5)

    def get(self, unit_id, address, function=3):
        """What one register of the device holds."""
        job = self.server.context.async_getValues(unit_id, function, address, 1)
        return asyncio.run_coroutine_threadsafe(job, self.loop).result(5)[0]

    def stop(self):
        if self.server is not None and self.loop.is_running():
            asyncio.run_coroutine_threadsafe(self.server.shutdown(), self.loop).result(5)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(5)


def silence_for_strangers(context):
    """pymodbus answers for a unit id it does not have with an exception; on a real trunk nobody answers."""
    read = context.async_getValues

    async def only_own(device_id, *what, **more):
        if device_id not in context.device_ids():
            raise NoSuchIdException()
        return await read(device_id, *what, **more)

    context.async_getValues = only_own


async def identify(self, context, device_id):
    """pymodbus has one identity a process; each device here has its own."""
    says = context.identities.get(device_id)
    if says is None:
        return ExceptionResponse(self.function_code, ExcCodes.ILLEGAL_FUNCTION)
    last = self.object_id if self.read_code == 4 else {1: 2, 2: 0x7F}.get(self.read_code, 0xFF)
    chosen = {id: text for id, text in says.items() if self.object_id <= id <= last}
    return ReadDeviceInformationResponse(
        read_code=self.read_code, information=chosen, dev_id=device_id, transaction_id=self.transaction_id)


ReadDeviceInformationRequest.datastore_update = identify


class TcpPeer(Peer):
    """Modbus TCP, or RTU frames through TCP."""

    def __init__(self, devices, framer=FramerType.SOCKET):
        super().__init__(devices)
        self.port = free_port()
        self.framer = framer

    def make(self):
        return ModbusTcpServer(
            self.devices, framer=self.framer, address=("127.0.0.1", self.port), ignore_missing_devices=True,
            trace_packet=self.hears, custom_pdu=self.own_pdus())

    def unframed(self, data):
        return data[6:] if self.framer == FramerType.SOCKET else data[:-2]

    def line(self, extra=""):
        key = "tcp" if self.framer == FramerType.SOCKET else "rtu_over_tcp"
        return f"{{{key}: 127.0.0.1:{self.port}, timeout: 500ms{extra}}}"


class SerialPeer(Peer):
    """Modbus RTU on one end of a cable made of two pseudo terminals."""

    def __init__(self, devices, timeout="1s"):
        super().__init__(devices)
        self.cable = PtyCable()
        self.timeout = timeout

    def make(self):
        return ModbusSerialServer(
            self.devices, framer=FramerType.RTU, port=self.cable.far, baudrate=115200, ignore_missing_devices=True,
            trace_packet=self.hears, custom_pdu=self.own_pdus())

    @staticmethod
    def unframed(data):
        return data[:-2]

    def line(self, extra=""):
        return f"{{serial: {self.cable.near}, baud: 115200, format: 8N1, timeout: {self.timeout}{extra}}}"

    def stop(self):
        super().stop()
        self.cable.close()


# Seconds a character of ten bits takes at 115200 baud, and some more for the clock's grain.
CHARACTER = 1.1 * 10 / 115200


class PtyCable:
    """Two pseudo terminals, back to back. Our own handles stay open, so that either end may come and go. Requests to the
    units in `dead` do not pass: pymodbus answers for a unit it does not have with an exception, a dead device is silent.
    `spoil` is what becomes of each answer on its way. Questions take the time they take on a wire: an answer that is there
    before its question can have left is none."""

    def __init__(self, dead=()):
        self.dead = set(dead)
        self.spoil = lambda data: data
        self.pairs = [os.openpty(), os.openpty()]
        for _, slave in self.pairs:
            tty.setraw(slave)
        self.near, self.far = (os.ttyname(slave) for _, slave in self.pairs)
        self.wake, self.waker = os.pipe()
        self.thread = threading.Thread(target=self._carry, daemon=True)
        self.thread.start()

    def _carry(self):
        (left, _), (right, _) = self.pairs
        to = {left: right, right: left}
        while True:
            readable, _, _ = select.select([left, right, self.wake], [], [])
            if self.wake in readable:
                return
            for master in readable:
                data = os.read(master, 4096)
                if master == right:
                    os.write(to[master], self.spoil(data))
                elif data[0] not in self.dead:
                    # Not a select on the handles: whoever hangs up meanwhile has sent all the same.
                    time.sleep(len(data) * CHARACTER)
                    os.write(to[master], data)

    def hang_up(self):
        """The adapter is pulled out: whoever has its port open is told, and the name is gone."""
        if self.pairs:
            os.write(self.waker, b"x")
            self.thread.join(5)
        for pair in self.pairs:
            for handle in pair:
                os.close(handle)
        self.pairs = []

    def close(self):
        self.hang_up()
        os.close(self.wake)
        os.close(self.waker)
