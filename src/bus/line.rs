//! The serial port: opened by path and exclusively, never flushed (tokio-serial's flush is a blocking tcdrain), closed at
//! the first sign that the device is gone. The only file that names tokio_serial. Times of the line are computed here.

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Access;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::bus::ioctl;
use crate::config::plant::CharFormat;
use crate::config::plant::Parity;
use crate::config::plant::SerialPort;

/// How long things take on a line. All zero where there are no characters (TCP).
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// One character.
    pub character: Duration,
    /// Silence between frames.
    pub gap: Duration,
}

impl Timing {
    /// 3.5 characters, but 1.75 ms above 19200 baud (serial line V1.02, 2.5.1.1); or `gap` where the user knows better.
    pub fn new(baud: u32, format: CharFormat, gap: Option<Duration>) -> Self {
        let character = Duration::from_secs(u64::from(format.bits())) / baud.max(1);
        let t35 = if baud > 19_200 { Duration::from_micros(1750) } else { character * 7 / 2 };
        Self { character, gap: gap.unwrap_or(t35) }
    }

    /// The time so many characters take.
    pub fn of(self, characters: usize) -> Duration {
        self.character * u32::try_from(characters).unwrap_or(u32::MAX)
    }
}

/// An open port. Registered with the runtime for reading only, which the library's own stream is not: room to write comes back
/// with each character that leaves, and would wake this task for nothing in the middle of every exchange.
#[derive(Debug)]
pub(super) struct Serial {
    port: AsyncFd<OwnedFd>,
}

/// A question fits a port's buffer many times; should that be full nevertheless, it is looked at again after this.
const ROOM: Duration = Duration::from_millis(1);

impl Serial {
    /// Opens by path; the error says what to do.
    pub(super) fn open(port: &SerialPort) -> Result<Self, String> {
        check(&port.path)?;
        let builder = tokio_serial::new(port.path.to_string_lossy(), port.baud)
            .data_bits(if port.format.data_bits == 7 {
                tokio_serial::DataBits::Seven
            } else {
                tokio_serial::DataBits::Eight
            })
            .parity(match port.format.parity {
                Parity::None => tokio_serial::Parity::None,
                Parity::Even => tokio_serial::Parity::Even,
                Parity::Odd => tokio_serial::Parity::Odd,
            })
            .stop_bits(if port.format.stop_bits == 2 {
                tokio_serial::StopBits::Two
            } else {
                tokio_serial::StopBits::One
            });
        let native = builder.open_native().map_err(|e| open_error(&port.path, &e))?;
        let stream = ioctl::owned(native);
        let other = |e: io::Error| format!("cannot open {}: {e}", port.path.display());
        rustix::io::ioctl_fionbio(&stream, true).map_err(|e| other(e.into()))?;
        if let Some(mode) = port.rs485
            && let Err(e) = ioctl::set_rs485(stream.as_raw_fd(), mode)
        {
            tracing::warn!(port = %port.path.display(), error = %e, "no kernel RS485 mode here: the adapter must switch itself");
        }
        if let Err(e) = ioctl::set_low_latency(stream.as_raw_fd()) {
            // Ptys and many USB chips have no such mode and are none the worse.
            tracing::debug!(port = %port.path.display(), error = %e, "no low-latency mode");
        }
        Ok(Self { port: registered(stream).map_err(other)? })
    }

    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.port.readable().await?;
            if let Ok(done) = guard.try_io(|port| Ok(rustix::io::read(port.get_ref(), &mut *buffer)?)) {
                return done;
            }
        }
    }

    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(self.port.get_ref(), bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(rustix::io::Errno::AGAIN) => tokio::time::sleep(ROOM).await,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// What lies there now, without waiting and without trusting the reactor to have noticed.
    pub(super) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(self.port.get_ref(), buffer) {
            Ok(n) => Ok(Some(n)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

#[expect(deprecated, reason = "its replacement is unsafe for types that may close early; an OwnedFd does not")]
fn registered(port: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(port, Interest::READABLE)
}

/// Looks before it opens, because the library's errors do not tell these apart.
fn check(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(format!("no port {shown}: is the adapter plugged in? see ls -l /dev/serial/by-id"));
        }
        Err(e) => return Err(format!("cannot look at {shown}: {e}")),
    };
    if !meta.file_type().is_char_device() {
        return Err(format!("{shown} is not a serial port"));
    }
    match rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK) {
        Err(rustix::io::Errno::ACCESS) => {
            let uid = rustix::process::geteuid().as_raw();
            let user = find_name("/etc/passwd", uid).unwrap_or_else(|| uid.to_string());
            Err(no_permission(path, &group_name(meta.gid()), meta.mode(), &user))
        }
        // Permission bits refuse with EACCES; this is the device cgroup that systemd made of the unit's `DeviceAllow=`.
        Err(rustix::io::Errno::PERM) => {
            let devices = std::fs::read_to_string("/proc/devices").unwrap_or_default();
            Err(closed_by_the_unit(path, find_driver(&devices, rustix::fs::major(meta.rdev()))))
        }
        _ => Ok(()),
    }
}

/// Joining the port's group helps only where the group may read and write, and nobody should join root's.
fn no_permission(path: &Path, group: &str, mode: u32, user: &str) -> String {
    let path = path.display();
    if mode & 0o060 == 0o060 && group != "root" {
        return format!(
            "no permission to open {path}: it belongs to group {group}; sudo usermod -aG {group} {user}, then restart"
        );
    }
    format!(
        "no permission to open {path}: it belongs to group {group} with mode {:03o}; let a group have it (sudo chgrp dialout \
         {path}; sudo chmod 660 {path}), then sudo usermod -aG dialout {user} and restart",
        mode & 0o777
    )
}

/// By its driver's name rather than its path: a path counts only for what is plugged in when the unit starts.
fn closed_by_the_unit(path: &Path, driver: Option<&str>) -> String {
    let (path, what) =
        (path.display(), driver.map_or_else(|| path.display().to_string(), |name| format!("char-{name}")));
    format!(
        "the service may not open {path}: its unit lets it have the kinds of serial port that it names; write \
         `DeviceAllow={what} rw` below [Service] in sudo systemctl edit trunkline, then restart"
    )
}

/// The driver of character devices with this major number, as /proc/devices has it: `229 hvc`. Paths there are single devices.
fn find_driver(devices: &str, major: u32) -> Option<&str> {
    let characters = devices.split("Block devices:").next()?;
    let named = characters.lines().filter_map(|line| line.trim().split_once(' '));
    let mut drivers = named.filter(|(number, name)| number.parse() == Ok(major) && !name.starts_with('/'));
    // `4 tty` before `4 ttyS`: consoles have the lower minor numbers.
    drivers.next_back().map(|(_, name)| name)
}

/// The group's name as /etc/group has it, else its number.
fn group_name(gid: u32) -> String {
    find_name("/etc/group", gid).unwrap_or_else(|| gid.to_string())
}

/// The name of a user or group; both files have the number in the third field.
fn find_name(file: &str, id: u32) -> Option<String> {
    find_group(&std::fs::read_to_string(file).unwrap_or_default(), id)
}

fn find_group(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

fn open_error(path: &Path, error: &tokio_serial::Error) -> String {
    let text = error.to_string().to_lowercase();
    if text.contains("busy") || text.contains("lock") || text.contains("temporarily unavailable") {
        return format!("{} is in use by another program (fuser -v {} names it)", path.display(), path.display());
    }
    format!("cannot open {}: {text}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const F8E1: CharFormat = CharFormat { data_bits: 8, parity: Parity::Even, stop_bits: 1 };

    #[test]
    fn the_silence_is_three_and_a_half_characters_up_to_19200_and_fixed_above() {
        assert_eq!(Timing::new(9_600, F8E1, None).gap.as_micros(), 4010);
        assert_eq!(Timing::new(19_200, F8E1, None).gap.as_micros(), 2005);
        assert_eq!(Timing::new(115_200, F8E1, None).gap.as_micros(), 1750);
        assert_eq!(Timing::new(9_600, F8E1, Some(Duration::ZERO)).gap, Duration::ZERO);
    }

    #[test]
    fn a_missing_port_and_a_file_that_is_no_port_are_told_apart() {
        assert!(check(Path::new("/dev/ttyNOWHERE")).unwrap_err().contains("plugged in"));
        assert!(check(Path::new("/etc/passwd")).unwrap_err().contains("not a serial port"));
    }

    #[test]
    fn a_refused_port_names_its_group_and_the_command() {
        let group = find_group("root:x:0:\ndialout:x:20:pi\n", 20).unwrap();
        let text = no_permission(Path::new("/dev/ttyUSB0"), &group, 0o660, "trunkline");
        assert!(text.contains("sudo usermod -aG dialout trunkline"), "{text}");
        let text = no_permission(Path::new("/dev/ttyS0"), "root", 0o600, "pi");
        assert!(!text.contains("-aG root") && text.contains("mode 600"), "{text}");
    }

    #[test]
    fn a_port_that_the_unit_closes_names_the_line_that_opens_it() {
        let devices = "Character devices:\n  1 mem\n  4 /dev/vc/0\n  4 tty\n  4 ttyS\n229 hvc\n\n\
                       Block devices:\n  7 loop\n229 no\n";
        assert_eq!(find_driver(devices, 229), Some("hvc"));
        assert_eq!(find_driver(devices, 4), Some("ttyS"));
        assert_eq!(find_driver(devices, 7), None, "a block device is no port");
        let path = Path::new("/dev/ttyMI0");
        assert!(closed_by_the_unit(path, Some("ttyMI")).contains("`DeviceAllow=char-ttyMI rw`"));
        assert!(closed_by_the_unit(path, None).contains("`DeviceAllow=/dev/ttyMI0 rw`"));
    }
}
