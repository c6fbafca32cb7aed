//! The line's troubles as transcripts: who says what when, under a paused clock, in memory; and on real ptys and sockets
//! through the simulator, with every value compared with what the register held.

mod copies;
mod functions;
mod hostile;
mod lines;

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::*;
use crate::config::plant::CharFormat;
use crate::config::plant::Parity;
use crate::config::plant::SerialPort;
use crate::point::AddressRange;
use crate::point::LineId;
use crate::point::Table;
use crate::sim;
use crate::sim::Dice;
use crate::sim::Fault;
use crate::sim::Hostility;
use crate::sim::LineOptions;
use crate::sim::Shared;
use crate::sim::SimDevice;
use crate::sim::SimTcp;

const F8N1: CharFormat = CharFormat { data_bits: 8, parity: Parity::None, stop_bits: 1 };
const F8E1: CharFormat = CharFormat { data_bits: 8, parity: Parity::Even, stop_bits: 1 };
const TIMEOUT: Duration = Duration::from_millis(100);

fn serial(path: impl Into<std::path::PathBuf>, baud: u32, format: CharFormat) -> Port {
    Port::Serial(SerialPort { path: path.into(), baud, format, rs485: None, echo: false })
}

fn line(port: Port, retries: u8) -> Line {
    Line {
        id: LineId(0),
        name: "bus".into(),
        port,
        timeout: TIMEOUT,
        min_timeout: TIMEOUT,
        retries,
        gap: None,
        raw_access: false,
    }
}

/// The other end of a line in memory: what the devices hear and say.
struct Far {
    stream: DuplexStream,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Far {
    async fn hears(&mut self, frame: &[u8]) {
        let mut got = vec![0; frame.len()];
        let heard = tokio::time::timeout(Duration::from_secs(60), self.stream.read_exact(&mut got)).await;
        heard.unwrap_or_else(|_| panic!("not asked {frame:02X?}")).unwrap();
        assert_eq!(got, frame, "{got:02X?} instead of {frame:02X?}");
    }

    /// After the request has left the wire and so much longer.
    async fn says(&mut self, after_ms: u64, bytes: &[u8]) {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        self.stream.write_all(bytes).await.unwrap();
    }
}

fn in_memory(line: Line) -> (Bus, Far) {
    let (near, stream) = tokio::io::duplex(4096);
    let (bus, mut task) = new(line);
    task.engine.attach(Link::Memory(near));
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    (bus, Far { stream, stop, task })
}

fn at_9600(retries: u8) -> (Bus, Far) {
    in_memory(line(serial("/dev/none", 9600, F8N1), retries))
}

fn unit(id: u8) -> UnitId {
    UnitId::new(id).unwrap()
}

fn holding(id: u8, start: u16, count: u16) -> ReadRequest {
    ReadRequest { unit: unit(id), table: Table::Holding, range: AddressRange::new(start, count).unwrap() }
}

fn register(id: u8, address: u16, value: u16) -> WriteRequest {
    WriteRequest { unit: unit(id), kind: WriteKind::Register { address, value } }
}

fn ask(bus: &Bus, request: ReadRequest) -> JoinHandle<Result<Reply, BusError>> {
    let bus = bus.clone();
    tokio::spawn(async move { bus.read(request).await })
}

fn tell(bus: &Bus, request: WriteRequest) -> JoinHandle<Result<Reply, BusError>> {
    let bus = bus.clone();
    tokio::spawn(async move { bus.write(request).await })
}

fn question(id: u8, start: u8, count: u8) -> Vec<u8> {
    frame::rtu(id, &[3, 0, start, 0, count])
}

fn words(id: u8, words: &[u16]) -> Vec<u8> {
    let data: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
    frame::rtu(id, &[&[3, data.len() as u8], data.as_slice()].concat())
}

async fn data(answer: JoinHandle<Result<Reply, BusError>>) -> Result<Data, BusError> {
    answer.await.unwrap().map(|reply| reply.data)
}

#[tokio::test(start_paused = true)]
async fn late_reply_is_never_taken_for_the_next_answer() {
    let (bus, mut far) = at_9600(0);
    let first = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    assert_eq!(data(first).await, Err(BusError::NoReply));
    let second = ask(&bus, holding(1, 10, 2));
    far.says(50, &words(1, &[0xBAD, 0xBAD])).await;
    far.hears(&question(1, 10, 2)).await;
    far.says(20, &words(1, &[3, 4])).await;
    assert_eq!(data(second).await, Ok(Data::Registers(vec![3, 4])));
    assert_eq!(bus.status().borrow().wire.stale_replies, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reply_later_than_the_guard_is_told_by_a_question_of_another_shape() {
    let (bus, mut far) = at_9600(0);
    let first = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    assert_eq!(data(first).await, Err(BusError::NoReply));
    let second = ask(&bus, holding(1, 10, 2));
    far.hears(&question(1, 10, 1)).await;
    far.says(20, &words(1, &[0xBAD, 0xBAD])).await;
    far.says(40, &words(1, &[3])).await;
    far.hears(&question(1, 10, 2)).await;
    far.says(20, &words(1, &[3, 4])).await;
    assert_eq!(data(second).await, Ok(Data::Registers(vec![3, 4])));
}

#[tokio::test(start_paused = true)]
async fn a_reply_ten_timeouts_late_is_still_never_taken_for_another() {
    let (bus, mut far) = at_9600(0);
    for (address, instead) in [(0, question(1, 0, 1)), (1, frame::rtu(1, &[8, 0, 0, 0, 1]))] {
        let unheard = ask(&bus, holding(1, address, 1));
        far.hears(&instead).await;
        assert_eq!(data(unheard).await, Err(BusError::NoReply));
    }
    tokio::time::sleep(10 * TIMEOUT).await;
    let third = ask(&bus, holding(1, 2, 1));
    far.hears(&frame::rtu(1, &[8, 0, 0, 0, 2])).await;
    far.says(10, &words(1, &[0xBAD])).await;
    far.says(10, &frame::rtu(1, &[0x88, 1])).await;
    far.hears(&question(1, 2, 1)).await;
    far.says(10, &words(1, &[7])).await;
    assert_eq!(data(third).await, Ok(Data::Registers(vec![7])));
}

#[tokio::test(start_paused = true)]
async fn a_device_deaf_to_such_questions_is_recognised_by_the_right_answer_that_follows() {
    let (bus, mut far) = at_9600(0);
    for address in 0..4 {
        let unheard = ask(&bus, holding(1, address, 1));
        let mark = address as u8;
        let instead = if address == 0 { question(1, 0, 1) } else { frame::rtu(1, &[8, 0, 0, 0, mark]) };
        far.hears(&instead).await;
        assert_eq!(data(unheard).await, Err(BusError::NoReply));
    }
    assert_eq!(data(ask(&bus, holding(1, 4, 1))).await, Err(BusError::NoReply), "it is left alone for a while");
    tokio::time::sleep(8 * TIMEOUT).await;
    let last = ask(&bus, holding(1, 4, 1));
    far.hears(&question(1, 4, 1)).await;
    far.says(20, &words(1, &[0xBAD])).await;
    far.says(40, &words(1, &[9])).await;
    assert_eq!(data(last).await, Ok(Data::Registers(vec![9])));
}

#[tokio::test(start_paused = true)]
async fn while_one_unit_owes_an_answer_the_others_are_asked_without_delay() {
    let (bus, mut far) = at_9600(0);
    let first = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    assert_eq!(data(first).await, Err(BusError::NoReply));
    let begun = Instant::now();
    let other = ask(&bus, holding(2, 0, 2));
    far.hears(&question(2, 0, 2)).await;
    assert!(begun.elapsed() < Duration::from_millis(5));
    far.says(15, &words(1, &[0xBAD, 0xBAD])).await;
    far.says(15, &words(2, &[5, 6])).await;
    assert_eq!(data(other).await, Ok(Data::Registers(vec![5, 6])));
    assert_eq!(bus.status().borrow().wire.stale_replies, 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_of_another_length_is_discarded() {
    let (bus, mut far) = at_9600(0);
    let answer = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    far.says(15, &words(1, &[7, 8, 9])).await;
    far.says(15, &words(1, &[3, 4])).await;
    assert_eq!(data(answer).await, Ok(Data::Registers(vec![3, 4])));
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_found_behind_thirty_bytes_of_garbage() {
    let (bus, mut far) = at_9600(0);
    let answer = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    far.says(15, &[0xA5; 30]).await;
    far.says(40, &words(1, &[3, 4])).await;
    assert_eq!(data(answer).await, Ok(Data::Registers(vec![3, 4])));
}

#[tokio::test(start_paused = true)]
async fn the_echo_of_a_refused_write_is_not_its_confirmation() {
    let mut port = serial("/dev/none", 9600, F8N1);
    if let Port::Serial(port) = &mut port {
        port.echo = true;
    }
    let (bus, mut far) = in_memory(line(port, 0));
    let answer = tell(&bus, register(1, 10, 5));
    let sent = frame::rtu(1, &[6, 0, 10, 0, 5]);
    far.hears(&sent).await;
    far.says(1, &sent).await;
    far.says(15, &frame::rtu(1, &[0x86, 2])).await;
    assert_eq!(data(answer).await, Err(BusError::Refused(2)));
}

#[tokio::test(start_paused = true)]
async fn a_checksum_error_is_not_silence_and_does_not_cost_the_whole_timeout() {
    let (bus, mut far) = at_9600(0);
    let begun = Instant::now();
    let answer = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    let mut damaged = words(1, &[3, 4]);
    damaged[4] ^= 0x10;
    far.says(10, &damaged).await;
    assert_eq!(data(answer).await, Err(BusError::Garbled(Garble::Crc)));
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_torn_frame_is_garbled_and_the_retry_is_answered() {
    let (bus, mut far) = at_9600(1);
    let answer = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    far.says(10, &words(1, &[3, 4])[..6]).await;
    // What was torn may have been another answer, so the retry begins with a question of another shape.
    far.hears(&question(1, 0, 1)).await;
    far.says(10, &words(1, &[1])).await;
    far.hears(&question(1, 0, 2)).await;
    far.says(10, &words(1, &[3, 4])).await;
    assert_eq!(data(answer).await, Ok(Data::Registers(vec![3, 4])));
    let wire = bus.status().borrow().wire;
    assert_eq!((wire.garbled, wire.retries, wire.requests), (1, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_another_unit_is_ignored_and_the_wait_goes_on() {
    let (bus, mut far) = at_9600(0);
    let answer = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    far.says(10, &words(9, &[7, 7])).await;
    far.says(10, &words(1, &[3, 4])).await;
    assert_eq!(data(answer).await, Ok(Data::Registers(vec![3, 4])));
    let next = ask(&bus, holding(1, 4, 1));
    far.hears(&question(1, 4, 1)).await;
    far.says(10, &words(1, &[5])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![5])), "not one behind");
}

#[tokio::test(start_paused = true)]
async fn a_doubled_answer_does_not_answer_the_next_request() {
    let (bus, mut far) = at_9600(0);
    let answer = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    far.says(10, &words(1, &[1])).await;
    far.says(0, &words(1, &[1])).await;
    assert_eq!(data(answer).await, Ok(Data::Registers(vec![1])));
    let next = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    far.says(4, &words(1, &[1])).await;
    far.says(10, &words(1, &[2])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![2])), "nothing answers before the question has ended");
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_waits_for_no_answer() {
    let (bus, mut far) = at_9600(3);
    let begun = Instant::now();
    let kind = WriteKind::Register { address: 10, value: 5 };
    let answer = tell(&bus, WriteRequest { unit: UnitId::BROADCAST, kind });
    far.hears(&frame::rtu(0, &[6, 0, 10, 0, 5])).await;
    assert_eq!(data(answer).await, Ok(Data::Written));
    assert!(begun.elapsed() >= TIMEOUT && begun.elapsed() < 2 * TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn writes_go_next_before_waiting_reads_and_before_a_retry() {
    let (bus, mut far) = at_9600(1);
    let first = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    let waiting = ask(&bus, holding(2, 0, 1));
    let write = tell(&bus, register(2, 10, 5));
    let sent = frame::rtu(2, &[6, 0, 10, 0, 5]);
    far.hears(&sent).await;
    far.says(10, &sent).await;
    assert_eq!(data(write).await, Ok(Data::Written));
    // The first question is still unanswered: something that cannot be mistaken comes before its repetition.
    let echo = frame::rtu(1, &[8, 0, 0, 0, 1]);
    far.hears(&echo).await;
    far.says(10, &echo).await;
    far.hears(&question(1, 0, 1)).await;
    far.says(10, &words(1, &[1])).await;
    far.hears(&question(2, 0, 1)).await;
    far.says(10, &words(2, &[2])).await;
    assert_eq!(data(first).await, Ok(Data::Registers(vec![1])));
    assert_eq!(data(waiting).await, Ok(Data::Registers(vec![2])));
}

#[tokio::test(start_paused = true)]
async fn a_read_on_demand_goes_next_before_waiting_polls() {
    let (bus, mut far) = at_9600(0);
    let first = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    let poll = ask(&bus, holding(2, 0, 1));
    let asker = bus.clone();
    let on_demand = tokio::spawn(async move { asker.read_next(holding(3, 0, 1)).await });
    far.says(10, &words(1, &[1])).await;
    far.hears(&question(3, 0, 1)).await;
    far.says(10, &words(3, &[3])).await;
    far.hears(&question(2, 0, 1)).await;
    far.says(10, &words(2, &[2])).await;
    assert_eq!(data(first).await, Ok(Data::Registers(vec![1])));
    assert_eq!(data(on_demand).await, Ok(Data::Registers(vec![3])));
    assert_eq!(data(poll).await, Ok(Data::Registers(vec![2])));
}

#[tokio::test(start_paused = true)]
async fn exceptions_that_do_not_heal_are_not_retried_and_a_busy_device_is() {
    let (bus, mut far) = at_9600(2);
    let wrong = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    far.says(10, &frame::rtu(1, &[0x83, 2])).await;
    assert_eq!(data(wrong).await, Err(BusError::Refused(2)));
    let busy = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    far.says(10, &frame::rtu(1, &[0x83, 6])).await;
    far.hears(&question(1, 1, 1)).await;
    far.says(10, &words(1, &[8])).await;
    assert_eq!(data(busy).await, Ok(Data::Registers(vec![8])));
}

#[tokio::test(start_paused = true)]
async fn silence_is_kept_from_the_last_byte_received() {
    let (bus, mut far) = at_9600(0);
    let first = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    far.says(10, &words(1, &[1])).await;
    let spoken = Instant::now();
    let second = ask(&bus, holding(2, 0, 1));
    far.hears(&question(2, 0, 1)).await;
    assert!(spoken.elapsed() >= Duration::from_micros(3645), "{:?}", spoken.elapsed());
    far.says(10, &words(2, &[2])).await;
    assert!(data(first).await.is_ok() && data(second).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_asker_who_gives_up_does_not_leave_half_a_request_on_the_line() {
    let (bus, mut far) = at_9600(0);
    let given_up = ask(&bus, holding(1, 0, 1));
    // The silence before it is over, and its characters are on their way.
    tokio::time::sleep(Duration::from_millis(5)).await;
    given_up.abort();
    let next = ask(&bus, holding(2, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    far.says(10, &words(1, &[1])).await;
    far.hears(&question(2, 0, 1)).await;
    far.says(10, &words(2, &[2])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![2])));
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_gone_is_tried_with_pauses_and_says_why() {
    let (bus, far) = at_9600(3);
    drop(far.stream);
    let begun = Instant::now();
    let Err(BusError::LineDown(_)) = bus.read(holding(1, 0, 1)).await else { panic!("the line is down") };
    assert!(begun.elapsed() < TIMEOUT, "answered at once, not after a timeout");
    let mut status = bus.status();
    let down = status.wait_for(|s| s.error.as_ref().is_some_and(|e| e.contains("no port /dev/none"))).await.unwrap();
    assert!(!down.up);
    drop(down);
    let mut turns = 0;
    let minute = tokio::time::sleep(Duration::from_secs(60));
    tokio::pin!(minute);
    loop {
        tokio::select! {
            () = &mut minute => break,
            changed = status.changed() => { changed.unwrap(); turns += 1; }
        }
    }
    assert!((10..30).contains(&turns), "{turns} tries in a minute");
}

#[tokio::test(start_paused = true)]
async fn what_waits_when_the_task_ends_is_told_so() {
    let (bus, mut far) = at_9600(0);
    let first = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    let waiting = ask(&bus, holding(1, 1, 1));
    tokio::task::yield_now().await;
    far.stop.cancel();
    assert_eq!(data(first).await, Err(BusError::NoReply), "the transaction in flight is finished");
    assert_eq!(data(waiting).await, Err(BusError::NotSent));
    far.task.await.unwrap();
    assert_eq!(bus.read(holding(1, 0, 1)).await, Err(BusError::NotSent));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_when_the_task_ends_was_not_sent_and_one_in_flight_may_have_been_done() {
    let (bus, mut far) = at_9600(3);
    let set = |address| WriteRequest { unit: unit(1), kind: WriteKind::Register { address, value: 5 } };
    let first = tell(&bus, set(1));
    far.hears(&frame::rtu(1, &[6, 0, 1, 0, 5])).await;
    let waiting = [tell(&bus, set(2)), tell(&bus, set(3))];
    tokio::task::yield_now().await;
    far.stop.cancel();
    assert_eq!(data(first).await, Err(BusError::NoReply), "it has gone out, and tries are left");
    for waiting in waiting {
        assert_eq!(data(waiting).await, Err(BusError::NotSent));
    }
    assert_eq!(bus.status().borrow().wire.requests, 1);
    far.task.await.unwrap();
    assert_eq!(bus.write(set(4)).await, Err(BusError::NotSent));
}

#[tokio::test(start_paused = true)]
async fn a_request_over_the_limits_never_reaches_the_wire() {
    let (bus, _far) = at_9600(0);
    assert_eq!(bus.read(holding(1, 0, 126)).await, Err(BusError::Refused(3)));
    let too_long = |kind| WriteRequest { unit: unit(1), kind };
    let coils = WriteKind::Coils { address: 0, values: vec![true; 1969] };
    assert_eq!(bus.write(too_long(coils)).await, Err(BusError::Refused(3)));
    let past_the_end = WriteKind::Registers { address: 0xFFFF, values: vec![1, 2] };
    assert_eq!(bus.write(too_long(past_the_end)).await, Err(BusError::Refused(2)));
    assert_eq!(bus.status().borrow().wire.requests, 0);
}

fn started(line: Line) -> Bus {
    let (bus, task) = new(line);
    tokio::spawn(task.run(CancellationToken::new()));
    bus
}

fn full_device(id: u8) -> Shared {
    let registers: Vec<u16> = (0..200).map(|n| u16::from(id) * 256 + n).collect();
    let bits: Vec<u16> = (0..40).map(|n| n & 1).collect();
    let device = SimDevice::new(id).with(Table::Holding, 0, &registers).with(Table::Input, 0, &registers);
    let device = device.with(Table::Coil, 0, &bits).with(Table::Discrete, 0, &bits);
    device.saying(objects_of(id)).shared()
}

/// In two parts, each as long as the other's.
fn objects_of(id: u8) -> Vec<(u8, Vec<u8>)> {
    (0..4).map(|n| (n, vec![b'A' + n * 8 + id; 100])).collect()
}

#[tokio::test]
async fn every_function_works_over_a_real_pty_without_a_breach_of_silence() {
    let device = full_device(7);
    let sim = sim::start_line(vec![Arc::clone(&device)], LineOptions::new(115_200, F8E1)).unwrap();
    let bus = started(line(serial(sim.path(), 115_200, F8E1), 0));
    for table in [Table::Holding, Table::Input, Table::Coil, Table::Discrete] {
        let range = AddressRange::new(3, 20).unwrap();
        let reply = bus.read(ReadRequest { unit: unit(7), table, range }).await.unwrap();
        let held: Vec<u16> = (3..23).map(|a| device.lock().unwrap().get(table, a).unwrap()).collect();
        match reply.data {
            Data::Registers(words) => assert_eq!(words, held),
            Data::Bits(bits) => assert_eq!(bits, held.iter().map(|w| *w != 0).collect::<Vec<_>>()),
            other => panic!("{other:?} for a read"),
        }
        assert!(reply.turnaround >= Duration::from_millis(5), "{:?}", reply.turnaround);
    }
    let kinds = [
        WriteKind::Coil { address: 1, on: true },
        WriteKind::Coils { address: 2, values: vec![true; 11] },
        WriteKind::Register { address: 1, value: 0x1234 },
        WriteKind::Registers { address: 2, values: vec![5, 6, 7] },
        WriteKind::Mask { address: 1, and: 0xFF00, or: 0x0056 },
        WriteKind::Bits { address: 1, and: 0xFFF0, or: 0x0008, by: Default::default() },
    ];
    for kind in kinds {
        let reply = bus.write(WriteRequest { unit: unit(7), kind }).await.unwrap();
        assert_eq!(reply.data, Data::Written);
    }
    let get = |table, address| device.lock().unwrap().get(table, address).unwrap();
    assert_eq!([1, 2, 3, 4].map(|a| get(Table::Holding, a)), [0x1258, 5, 6, 7]);
    assert!((1..13).all(|a| get(Table::Coil, a) == 1));
    let both = WriteKind::ReadWrite { address: 2, values: vec![9], read: AddressRange::new(1, 2).unwrap() };
    let reply = bus.write(WriteRequest { unit: unit(7), kind: both }).await.unwrap();
    assert_eq!(reply.data, Data::Registers(vec![0x1258, 9]));
    whoever_answers_is_the_one_asked(&bus, 7, 2).await;
    let stats = sim.stats();
    assert_eq!((stats.requests, stats.violations, stats.collisions), (12, 0, 0));
}

#[tokio::test]
async fn an_adapter_that_returns_under_the_same_path_is_used_again() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("adapter");
    let plug = || {
        let sim = sim::start_line(vec![full_device(1)], LineOptions::new(115_200, F8N1)).unwrap();
        std::os::unix::fs::symlink(sim.path(), &path).unwrap();
        sim
    };
    let sim = plug();
    let bus = started(line(serial(&path, 115_200, F8N1), 0));
    assert!(bus.read(holding(1, 0, 1)).await.is_ok());
    sim.stop();
    std::fs::remove_file(&path).unwrap();
    let Err(BusError::LineDown(_)) = bus.read(holding(1, 0, 1)).await else { panic!("unplugged") };
    let _sim = plug();
    bus.status().wait_for(|s| s.wire.opens > 1).await.unwrap();
    assert!(bus.read(holding(1, 0, 1)).await.is_ok());
    assert!(bus.status().borrow().up);
}

/// What is believed of it is what was just written, and nothing else.
async fn write_and_read(bus: &Bus, device: &Shared, value: u16) {
    let id = device.lock().unwrap().unit();
    let read = AddressRange::new(151, 1).unwrap();
    let kind = WriteKind::ReadWrite { address: 151, values: vec![value], read };
    if let Ok(reply) = bus.write(WriteRequest { unit: unit(id), kind }).await {
        let held = device.lock().unwrap().get(Table::Holding, 151);
        assert!(reply.data == Data::Written || reply.data == Data::Registers(vec![value]), "{:?}", reply.data);
        assert_eq!(held, Some(value), "confirmed, not written");
    }
}

async fn whoever_answers_is_the_one_asked(bus: &Bus, id: u8, object: u8) {
    let request = mei::IdentifyRequest { unit: unit(id), category: mei::Category::Regular, object };
    let Ok(Reply { data: Data::Objects(said), .. }) = bus.identify_next(request).await else { return };
    let wanted = &objects_of(id)[usize::from(object)..usize::from(object) + 2];
    assert_eq!(said.objects, wanted, "of unit {id} from object {object} on");
}

/// Asks at random; before each question all registers change, so that a value of another moment or place is seen.
async fn soak(bus: Bus, devices: Vec<Shared>, turns: u32, seed: u64) -> (u32, u32) {
    let mut dice = Dice::new(seed);
    let mut right = 0;
    for turn in 0..turns {
        let device = &devices[dice.below(devices.len() as u32) as usize];
        let id = device.lock().unwrap().unit();
        let range = AddressRange::new(dice.below(40) as u16, 1 + dice.below(3) as u16 * 4).unwrap();
        let table = [Table::Holding, Table::Input, Table::Coil][dice.below(3) as usize];
        let range = if table.is_bits() { AddressRange::new(range.start() % 20, range.count()).unwrap() } else { range };
        let asked = Instant::now().into_std();
        for (table, count) in [(Table::Holding, 60), (Table::Input, 60), (Table::Coil, 40)] {
            for address in 0..count {
                device.lock().unwrap().set(table, address, dice.below(0x1_0000) as u16, asked);
            }
        }
        if turn % 10 == 0 {
            let value = dice.below(0x1_0000) as u16;
            if bus.write(register(id, 150, value)).await.is_ok() {
                assert_eq!(device.lock().unwrap().get(Table::Holding, 150), Some(value), "confirmed, not written");
            }
        }
        if turn % 10 == 5 {
            write_and_read(&bus, device, dice.below(0x1_0000) as u16).await;
            whoever_answers_is_the_one_asked(&bus, id, dice.below(2) as u8 * 2).await;
        }
        let Ok(reply) = bus.read(ReadRequest { unit: unit(id), table, range }).await else { continue };
        let got: Vec<u16> = match reply.data {
            Data::Registers(words) => words,
            Data::Bits(bits) => bits.into_iter().map(u16::from).collect(),
            other => panic!("{other:?} for a read"),
        };
        assert_eq!(got.len(), usize::from(range.count()));
        for (address, word) in (range.start()..).zip(got) {
            let held = device.lock().unwrap().held(table, address, word, (asked, reply.arrived.into_std()));
            assert!(held, "turn {turn}: {table} {address} of unit {id} never held {word}");
        }
        right += 1;
    }
    (turns, right)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_line_never_yields_a_wrong_value() {
    let mut runs = tokio::task::JoinSet::new();
    for seed in 1..=16 {
        runs.spawn(async move {
            let devices: Vec<Shared> = (1..=3).map(full_device).collect();
            let mut options = LineOptions::new(230_400, F8N1);
            options.turnaround = Duration::from_millis(1);
            let mut hostility = Hostility::new(0.2, TIMEOUT, seed);
            // Every other line answers far later than any guard could wait.
            hostility.latest = if seed % 2 == 0 { 1.8 } else { 6.0 };
            options.hostility = Some(hostility);
            let sim = sim::start_line(devices.clone(), options).unwrap();
            let bus = started(line(serial(sim.path(), 230_400, F8N1), 1));
            let (turns, right) = soak(bus.clone(), devices, 160, seed).await;
            let wire = bus.status().borrow().wire;
            (turns, right, sim.stats(), wire)
        });
    }
    let (mut turns, mut right) = (0, 0);
    let mut faults = std::collections::BTreeMap::<Fault, u64>::new();
    while let Some(run) = runs.join_next().await {
        let (asked, answered, stats, wire) = run.unwrap();
        turns += asked;
        right += answered;
        stats.faults.into_iter().for_each(|(fault, n)| *faults.entry(fault).or_default() += n);
        assert!(wire.stale_replies > 0 && wire.garbled > 0 && wire.timeouts > 0 && wire.exceptions > 0);
    }
    println!("{turns} asked, {right} answered right, faults {faults:?}");
    assert!(right * 10 > turns * 8, "{right} of {turns}");
    assert_eq!(faults.len(), 11, "every kind of trouble happened: {faults:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_tcp_device_never_yields_a_wrong_value() {
    let devices: Vec<Shared> = (1..=3).map(full_device).collect();
    let any = "127.0.0.1:0".parse().unwrap();
    let trouble = Some(Hostility::new(0.1, TIMEOUT, 5));
    let sim = SimTcp::start(any, devices.clone(), Duration::ZERO, trouble).await.unwrap();
    let bus = started(line(Port::Tcp(sim.address().to_string()), 1));
    let (turns, right) = soak(bus, devices, 400, 5).await;
    assert!(right * 10 > turns * 8, "{right} of {turns}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_serial_server_never_yields_a_wrong_value() {
    let devices: Vec<Shared> = (1..=3).map(full_device).collect();
    let any = "127.0.0.1:0".parse().unwrap();
    let trouble = Some(Hostility::new(0.1, TIMEOUT, 7));
    let sim = SimTcp::start_rtu(any, devices.clone(), Duration::ZERO, trouble).await.unwrap();
    let bus = started(line(Port::RtuOverTcp(sim.address().to_string()), 1));
    let (turns, right) = soak(bus, devices, 400, 7).await;
    assert!(right * 10 > turns * 7, "{right} of {turns}");
}

#[tokio::test(start_paused = true)]
async fn what_passes_can_be_watched_at_run_time() {
    let (bus, mut far) = at_9600(0);
    let mut trace = bus.trace();
    let answer = ask(&bus, holding(1, 10, 1));
    far.hears(&question(1, 10, 1)).await;
    far.says(10, &words(9, &[5])).await;
    far.says(10, &words(1, &[7])).await;
    assert!(data(answer).await.is_ok());
    let mut view = trace::View::new(trace.framing(), None);
    let shown =
        trace.take().into_iter().flat_map(|item| view.see(item)).filter_map(|shown| shown.text(trace::Depth::Message));
    let shown: Vec<String> = shown.collect();
    let name = "read holding registers";
    let [question, aside, answer] = shown.as_slice() else { panic!("{shown:?}") };
    assert_eq!(*question, format!("→ unit   1  {name}  10"));
    assert!(aside.starts_with(&format!("⤳ unit   9  {name}")) && aside.ends_with("put aside: 5"), "{aside}");
    assert!(answer.starts_with(&format!("← unit   1  {name}  10")) && answer.ends_with(" ms  7"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn what_has_passed_can_be_looked_at_afterwards() {
    let (bus, mut far) = at_9600(0);
    let answer = ask(&bus, holding(1, 10, 1));
    far.hears(&question(1, 10, 1)).await;
    let mut damaged = words(1, &[7]);
    damaged[3] ^= 1;
    far.says(10, &damaged).await;
    assert!(data(answer).await.is_err());
    let mut trace = bus.trace();
    trace.rewind();
    let mut view = trace::View::new(trace.framing(), None);
    let shown =
        trace.take().into_iter().flat_map(|item| view.see(item)).filter_map(|shown| shown.text(trace::Depth::Frame));
    let wanted = [
        format!("→ {}", hex(&question(1, 10, 1))),
        format!("! {}  (checksum)", hex(&damaged)),
        "× unit 1 garbled: checksum".to_owned(),
    ];
    assert_eq!(shown.collect::<Vec<_>>(), wanted);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_port_in_use_is_said_to_be_in_use() {
    let sim = sim::start_line(vec![full_device(1)], LineOptions::new(115_200, F8N1)).unwrap();
    let first = started(line(serial(sim.path(), 115_200, F8N1), 0));
    assert!(first.read(holding(1, 0, 1)).await.is_ok());
    let second = started(line(serial(sim.path(), 115_200, F8N1), 0));
    let Err(BusError::LineDown(error)) = second.read(holding(1, 0, 1)).await else { panic!("opened twice") };
    assert!(error.contains("is in use by another program"), "{error}");
    assert!(first.read(holding(1, 0, 1)).await.is_ok());
}

#[tokio::test]
async fn an_adapter_that_hears_itself_is_understood() {
    let mut options = LineOptions::new(115_200, F8N1);
    options.echo = true;
    let sim = sim::start_line(vec![full_device(1)], options).unwrap();
    let port = SerialPort { path: sim.path().to_owned(), baud: 115_200, format: F8N1, rs485: None, echo: true };
    let bus = started(line(Port::Serial(port), 0));
    assert_eq!(bus.read(holding(1, 3, 2)).await.unwrap().data, Data::Registers(vec![259, 260]));
    assert_eq!(bus.write(register(1, 3, 7)).await.unwrap().data, Data::Written);
    assert_eq!(bus.write(register(1, 4000, 7)).await, Err(BusError::Refused(2)), "its own echo is no confirmation");
    assert_eq!(bus.read(holding(1, 3, 1)).await.unwrap().data, Data::Registers(vec![7]));
    assert_eq!(sim.stats().violations, 0);
}

#[tokio::test]
async fn a_tcp_device_that_hung_up_while_idle_is_asked_over_a_new_connection() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bus = started(line(Port::Tcp(target.local_addr().unwrap().to_string()), 0));
    let (idle, _) = target.accept().await.unwrap();
    drop(idle);
    let answer = ask(&bus, holding(1, 0, 1));
    let (mut stream, _) = target.accept().await.unwrap();
    let mut request = [0; 12];
    stream.read_exact(&mut request).await.unwrap();
    let number = u16::from_be_bytes([request[0], request[1]]);
    stream.write_all(&frame::mbap(number, 1, &[3, 2, 0, 9])).await.unwrap();
    assert_eq!(data(answer).await, Ok(Data::Registers(vec![9])));
}

/// Prints the ratio, asserts only what does not depend on the machine: no breach of silence.
#[tokio::test]
async fn back_to_back_reads_keep_the_silence_and_come_near_the_wires_limit() {
    for (baud, format, reads) in [(9_600, F8N1, 8), (19_200, F8E1, 15), (115_200, F8N1, 40)] {
        let mut options = LineOptions::new(baud, format);
        options.insist = true;
        let turnaround = options.turnaround;
        let sim = sim::start_line(vec![full_device(1), full_device(2)], options).unwrap();
        // A busy machine may hold the simulated devices up for longer than they are given elsewhere.
        let patient = Line { timeout: TIMEOUT * 20, ..line(serial(sim.path(), baud, format), 0) };
        let bus = started(patient);
        bus.read(holding(1, 0, 20)).await.unwrap();
        let begun = Instant::now();
        for n in 0..reads {
            bus.read(holding(1 + n % 2, 0, 20)).await.unwrap();
        }
        let timing = Timing::new(baud, format, None);
        let least = (timing.of(8 + 5 + 40) + turnaround + timing.gap * 2) * u32::from(reads);
        println!("{baud} {format}: {:.3} of the least time", begun.elapsed().div_duration_f64(least));
        assert_eq!(sim.stats().violations, 0);
    }
}
