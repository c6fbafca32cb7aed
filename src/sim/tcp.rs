//! The same devices behind Modbus TCP. Trouble, where wanted, is what TCP can carry: silence, late answers, another
//! transaction's number, another unit, exceptions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::bus::frame;
use crate::sim::Fault;
use crate::sim::Hostility;
use crate::sim::Shared;
use crate::sim::line::request_len;

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct SimTcp {
    address: SocketAddr,
    _stop: DropGuard,
}

impl SimTcp {
    /// Listens on `listen` (port 0 for any); each answer takes `turnaround`.
    pub async fn start(
        listen: SocketAddr,
        devices: Vec<Shared>,
        turnaround: Duration,
        hostility: Option<Hostility>,
    ) -> io::Result<Self> {
        Self::speak(listen, devices, (turnaround, hostility), Framing::Mbap).await
    }

    /// The same with RTU frames, as simple serial servers carry them; trouble is a wire's.
    pub async fn start_rtu(
        listen: SocketAddr,
        devices: Vec<Shared>,
        turnaround: Duration,
        hostility: Option<Hostility>,
    ) -> io::Result<Self> {
        Self::speak(listen, devices, (turnaround, hostility), Framing::Rtu).await
    }

    async fn speak(
        listen: SocketAddr,
        devices: Vec<Shared>,
        (turnaround, hostility): (Duration, Option<Hostility>),
        framing: Framing,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let devices: Arc<[Shared]> = devices.into();
        tokio::spawn(async move {
            let mut connections = 0;
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                connections += 1;
                let mut hostility = hostility.clone();
                if let Some(hostility) = &mut hostility {
                    // Each connection has luck of its own, else a reconnect would meet the same fault for ever.
                    (0..connections).for_each(|_| _ = hostility.dice.below(2));
                }
                let (devices, stopped) = (Arc::clone(&devices), stopped.clone());
                let serve = async move {
                    match framing {
                        Framing::Mbap => serve(stream, &devices, turnaround, hostility).await,
                        Framing::Rtu => serve_rtu(stream, &devices, turnaround, hostility).await,
                    }
                };
                // A connection that breaks is the client's affair.
                tokio::spawn(async move { stopped.run_until_cancelled(serve).await });
            }
        });
        Ok(Self { address, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Mbap,
    Rtu,
}

async fn serve_rtu(
    mut stream: TcpStream,
    devices: &[Shared],
    turnaround: Duration,
    mut hostility: Option<Hostility>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut heard = Vec::new();
    loop {
        while request_len(&heard).is_none_or(|length| heard.len() < length) {
            if stream.read_buf(&mut heard).await? == 0 {
                return Ok(());
            }
        }
        let request = std::mem::take(&mut heard);
        if !frame::is_sound(&request) {
            continue;
        }
        let Some(pdu) = answer(devices, request[0], &request[1..request.len() - 2]) else { continue };
        let answer = frame::rtu(request[0], &pdu);
        let fault = hostility.as_mut().and_then(Hostility::draw);
        let spoilt = match (fault, &mut hostility) {
            (Some(fault), Some(hostility)) => hostility.spoil(fault, answer),
            _ => vec![(Duration::ZERO, answer)],
        };
        for (delay, bytes) in spoilt {
            tokio::time::sleep(turnaround + delay).await;
            stream.write_all(&bytes).await?;
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    devices: &[Shared],
    turnaround: Duration,
    mut hostility: Option<Hostility>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut header = [0; 7];
        stream.read_exact(&mut header).await?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut pdu = vec![0; length.saturating_sub(1)];
        stream.read_exact(&mut pdu).await?;
        let (number, unit) = (u16::from_be_bytes([header[0], header[1]]), header[6]);
        let Some(answer) = answer(devices, unit, &pdu) else { continue };
        if !turnaround.is_zero() {
            tokio::time::sleep(turnaround).await;
        }
        let fault = hostility.as_mut().and_then(Hostility::draw);
        let bytes = match (fault, &mut hostility) {
            (None, _) | (_, None) => frame::mbap(number, unit, &answer),
            (Some(Fault::Silent), _) => continue,
            (Some(Fault::Late), Some(h)) => {
                let late = h.late();
                tokio::time::sleep(late).await;
                frame::mbap(number, unit, &answer)
            }
            (Some(Fault::WrongUnit), _) => frame::mbap(number, unit ^ 0x40, &answer),
            (Some(Fault::Exception), _) => frame::mbap(number, unit, &[answer[0] | 0x80, 4]),
            (Some(Fault::WrongLength), _) => frame::mbap(number, unit, &answer[..answer.len() - 1]),
            (Some(Fault::Truncated), _) => frame::mbap(number, unit, &answer)[..8].to_vec(),
            (Some(_), _) => {
                [frame::mbap(number.wrapping_sub(1), unit, &answer), frame::mbap(number, unit, &answer)].concat()
            }
        };
        stream.write_all(&bytes).await?;
    }
}

fn answer(devices: &[Shared], unit: u8, pdu: &[u8]) -> Option<Vec<u8>> {
    devices.iter().find_map(|device| {
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        (device.unit() == unit).then(|| device.answer(pdu, std::time::Instant::now()))
    })
}
