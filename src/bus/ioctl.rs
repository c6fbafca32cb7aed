//! The ioctls no safe crate offers: kernel RS485 mode. The only module with `unsafe`, kept to one call.
#![expect(unsafe_code, reason = "TIOCSRS485 has no safe wrapper")]

use std::io;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;

use rustix::ioctl::Setter;

use crate::config::plant::Rs485;

/// `struct serial_rs485` of linux/serial.h: flags, two delays in milliseconds, five words of padding.
#[repr(C)]
struct SerialRs485 {
    flags: u32,
    delay_before_send: u32,
    delay_after_send: u32,
    padding: [u32; 5],
}

const ENABLED: u32 = 1;
const RTS_ON_SEND: u32 = 1 << 1;
const TIOCSRS485: rustix::ioctl::Opcode = 0x542F;

/// Lets the driver raise RTS around each transmission. ENOTTY where the adapter cannot.
pub(super) fn set_rs485(port: RawFd, mode: Rs485) -> io::Result<()> {
    let ms = |d: std::time::Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
    let wanted = SerialRs485 {
        flags: ENABLED | RTS_ON_SEND,
        delay_before_send: ms(mode.delay_before_send),
        delay_after_send: ms(mode.delay_after_send),
        padding: [0; 5],
    };
    // SAFETY: the caller owns the open port for longer than this call; the struct has the kernel's layout.
    unsafe {
        let port = BorrowedFd::borrow_raw(port);
        rustix::ioctl::ioctl(port, Setter::<TIOCSRS485, SerialRs485>::new(wanted))?;
    }
    Ok(())
}
