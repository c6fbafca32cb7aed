//! What is meant by a question, in the words of tokio-modbus's `Request` and `Response`, and the door to that library: its
//! own clients are not used, because they take the next frame that decodes, late or not. Here a request is judged by the
//! standard's limits, made into a PDU, and the PDU that answered it into data.

use std::borrow::Cow;
use std::time::Duration;

use tokio_modbus::Request;
use tokio_modbus::Response;
use tokio_modbus::bytes::Bytes;
use tokio_modbus::prelude::ReadCode;

use crate::bus::Data;
use crate::bus::Garble;
use crate::bus::ReadRequest;
use crate::bus::WriteKind;
use crate::bus::WriteRequest;
use crate::bus::frame::Asked;
use crate::bus::mei;
use crate::bus::mei::Category;
use crate::bus::mei::IdentifyRequest;
use crate::point::AddressRange;
use crate::point::Table;

/// What is to be done, in the library's words, with the number of bits that were asked for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) unit: u8,
    request: Request<'static>,
    bits: usize,
    pub(super) wait: Option<Duration>,
}

/// The exceptions a device would answer; such a request never goes on the wire.
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

impl Ask {
    /// Refused as a device would refuse it when the table's limit is passed (V1.1b3, 6.1–6.4).
    pub(super) fn read(read: ReadRequest) -> Result<Self, u8> {
        let (start, count) = (read.range.start(), read.range.count());
        if count > read.table.read_limit() || read.unit.get() == 0 {
            return Err(ILLEGAL_VALUE);
        }
        let request = match read.table {
            Table::Coil => Request::ReadCoils(start, count),
            Table::Discrete => Request::ReadDiscreteInputs(start, count),
            Table::Input => Request::ReadInputRegisters(start, count),
            Table::Holding => Request::ReadHoldingRegisters(start, count),
        };
        Ok(Self { unit: read.unit.get(), request, bits: usize::from(count), wait: None })
    }

    /// Refused as a device would refuse it: nobody answers for all.
    pub(super) fn identify(asked: IdentifyRequest) -> Result<Self, u8> {
        if asked.unit.get() == 0 {
            return Err(ILLEGAL_VALUE);
        }
        let code = match asked.category {
            Category::Basic => ReadCode::Basic,
            Category::Regular => ReadCode::Regular,
            Category::Extended => ReadCode::Extended,
            Category::One => ReadCode::Specific,
        };
        let request = Request::ReadDeviceIdentification(code, asked.object);
        Ok(Self { unit: asked.unit.get(), request, bits: 0, wait: None })
    }

    /// Waits at most so long for the first byte, if that is less than the line's timeout.
    pub(super) fn within(self, wait: Duration) -> Self {
        Self { wait: Some(wait), ..self }
    }

    /// At most 1968 coils or 123 registers, or 121 where something is read as well (V1.1b3, 6.11, 6.12 and 6.17).
    pub(super) fn write(write: WriteRequest) -> Result<Self, u8> {
        let fits = |address: u16, len: usize, limit: usize| match len {
            0 => Err(ILLEGAL_VALUE),
            n if n > limit => Err(ILLEGAL_VALUE),
            n if usize::from(address) + n > 0x1_0000 => Err(ILLEGAL_ADDRESS),
            _ => Ok(()),
        };
        let request = match write.kind {
            WriteKind::Coil { address, on } => Request::WriteSingleCoil(address, on),
            WriteKind::Register { address, value } => Request::WriteSingleRegister(address, value),
            WriteKind::Mask { address, and, or } => Request::MaskWriteRegister(address, and, or),
            WriteKind::Coils { address, values } => {
                fits(address, values.len(), 1968)?;
                Request::WriteMultipleCoils(address, Cow::Owned(values))
            }
            WriteKind::Registers { address, values } => {
                fits(address, values.len(), 123)?;
                Request::WriteMultipleRegisters(address, Cow::Owned(values))
            }
            WriteKind::ReadWrite { address, values, read } => {
                fits(address, values.len(), 121)?;
                Self::read_write(write.unit.get(), address, values, read)?
            }
            WriteKind::Bits { address, and, or, .. } => Request::MaskWriteRegister(address, and, or),
        };
        Ok(Self { unit: write.unit.get(), request, bits: 0, wait: None })
    }

    fn read_write(unit: u8, address: u16, values: Vec<u16>, read: AddressRange) -> Result<Request<'static>, u8> {
        if unit == 0 || read.count() > Table::Holding.read_limit() {
            return Err(ILLEGAL_VALUE);
        }
        let values = Cow::Owned(values);
        Ok(Request::ReadWriteMultipleRegisters(read.start(), read.count(), address, values))
    }

    /// The library keeps its encoder to itself; these are all the functions this house sends.
    pub(super) fn pdu(&self) -> Vec<u8> {
        if let Request::ReadDeviceIdentification(code, object) = &self.request {
            return vec![mei::FUNCTION, mei::TYPE, code.value(), *object];
        }
        let (function, address) = match &self.request {
            Request::ReadCoils(a, _) => (1, a),
            Request::ReadDiscreteInputs(a, _) => (2, a),
            Request::ReadHoldingRegisters(a, _) => (3, a),
            Request::ReadInputRegisters(a, _) => (4, a),
            Request::WriteSingleCoil(a, _) => (5, a),
            Request::WriteSingleRegister(a, _) => (6, a),
            Request::WriteMultipleCoils(a, _) => (15, a),
            Request::WriteMultipleRegisters(a, _) => (16, a),
            Request::MaskWriteRegister(a, _, _) => (22, a),
            Request::ReadWriteMultipleRegisters(a, _, _, _) => (23, a),
            other => unreachable!("this house never asks {other:?}"),
        };
        let mut pdu = vec![function];
        let mut word = |w: u16| pdu.extend_from_slice(&w.to_be_bytes());
        word(*address);
        match &self.request {
            Request::WriteSingleCoil(_, on) => word(if *on { 0xFF00 } else { 0 }),
            Request::WriteSingleRegister(_, w) => word(*w),
            Request::MaskWriteRegister(_, and, or) => {
                word(*and);
                word(*or);
            }
            Request::WriteMultipleCoils(_, on) => {
                word(on.len() as u16);
                pdu.push(on.len().div_ceil(8) as u8);
                pdu.extend(on.chunks(8).map(|c| c.iter().rev().fold(0, |byte, on| byte << 1 | u8::from(*on))));
            }
            Request::WriteMultipleRegisters(_, words) => {
                word(words.len() as u16);
                pdu.push(words.len() as u8 * 2);
                pdu.extend(words.iter().flat_map(|w| w.to_be_bytes()));
            }
            Request::ReadWriteMultipleRegisters(_, count, to, words) => {
                word(*count);
                word(*to);
                word(words.len() as u16);
                pdu.push(words.len() as u8 * 2);
                pdu.extend(words.iter().flat_map(|w| w.to_be_bytes()));
            }
            Request::ReadCoils(_, n)
            | Request::ReadDiscreteInputs(_, n)
            | Request::ReadHoldingRegisters(_, n)
            | Request::ReadInputRegisters(_, n) => word(*n),
            _ => {}
        }
        pdu
    }

    /// Can be asked again, and changes nothing.
    pub(super) fn is_read(&self) -> bool {
        Asked::new(self.unit, self.pdu()).is_read()
    }

    /// The data, or the exception's code.
    pub(super) fn outcome(&self, pdu: Vec<u8>) -> Result<Result<Data, u8>, Garble> {
        if pdu[0] & 0x80 != 0 {
            return Ok(Err(pdu[1]));
        }
        // The library refuses levels of conformity that are not in the standard, which devices do send.
        if pdu[0] == mei::FUNCTION {
            return mei::parse(&pdu).map(|said| Ok(Data::Objects(said))).ok_or(Garble::Length);
        }
        let response = Response::try_from(Bytes::from(pdu)).map_err(|_| Garble::Length)?;
        Ok(Ok(match response {
            Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits) => {
                bits.truncate(self.bits);
                Data::Bits(bits)
            }
            Response::ReadHoldingRegisters(words)
            | Response::ReadInputRegisters(words)
            | Response::ReadWriteMultipleRegisters(words) => Data::Registers(words),
            _ => Data::Written,
        }))
    }
}
