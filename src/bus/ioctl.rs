//! What no safe crate offers: kernel RS485 mode, low latency, and a library's port as a plain descriptor. The only module with `unsafe`, kept to these calls.
#![expect(unsafe_code, reason = "TIOCSRS485, TIOCSSERIAL and giving a port away have no safe wrappers")]

use std::io;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

use rustix::ioctl::Getter;
use rustix::ioctl::Setter;

use crate::config::plant::Rs485;

/// The port itself, of a library's handle that is given up.
pub(super) fn owned(port: impl IntoRawFd) -> OwnedFd {
    // SAFETY: `into_raw_fd` hands over an open descriptor that nobody else closes any more.
    unsafe { OwnedFd::from_raw_fd(port.into_raw_fd()) }
}

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

/// `struct serial_struct` of linux/serial.h.
#[repr(C)]
struct SerialStruct {
    before_flags: [i32; 4],
    flags: i32,
    fifo_divisor_base: [i32; 3],
    close_delay: u16,
    io_type: [u8; 2],
    hub6: i32,
    closing_wait: [u16; 2],
    iomem_base: *mut u8,
    iomem_reg_shift: u16,
    port_high: u32,
    iomap_base: std::ffi::c_ulong,
}

const LOW_LATENCY: i32 = 1 << 13;
const TIOCGSERIAL: rustix::ioctl::Opcode = 0x541E;
const TIOCSSERIAL: rustix::ioctl::Opcode = 0x541F;

/// Asks the driver to hand on what it has received at once: an FTDI adapter else keeps it for up to 16 ms. ENOTTY where
/// the driver has no such thing.
pub(super) fn set_low_latency(port: RawFd) -> io::Result<()> {
    // SAFETY: the caller owns the open port for longer than these calls; the struct has the kernel's layout, and what the
    // kernel wrote into it is given back unchanged but for one flag.
    unsafe {
        let port = BorrowedFd::borrow_raw(port);
        let mut settings = rustix::ioctl::ioctl(port, Getter::<TIOCGSERIAL, SerialStruct>::new())?;
        settings.flags |= LOW_LATENCY;
        rustix::ioctl::ioctl(port, Setter::<TIOCSSERIAL, SerialStruct>::new(settings))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_structs_have_the_kernels_size() {
        assert_eq!((size_of::<SerialRs485>(), size_of::<SerialStruct>()), (32, 72));
    }
}
