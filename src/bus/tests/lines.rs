//! Lines that come, go and suffer beside each other: unplugged without spinning, back under the same path, and nobody else
//! feels it.

use super::*;

#[tokio::test]
async fn while_an_adapter_is_unplugged_asking_opens_nothing_and_its_return_under_another_name_is_one_opening() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("adapter");
    let plug = || {
        let sim = sim::start_line(vec![full_device(1)], LineOptions::new(115_200, F8N1)).unwrap();
        std::os::unix::fs::symlink(sim.path(), &path).unwrap();
        sim
    };
    let sim = plug();
    let bus = started(Line { timeout: TIMEOUT * 20, ..line(serial(&path, 115_200, F8N1), 0) });
    assert!(bus.read(holding(1, 0, 1)).await.is_ok());
    sim.stop();
    std::fs::remove_file(&path).unwrap();
    let mut status = bus.status();
    let before = status.borrow_and_update().wire;
    // As fast as one can ask; each is told at once, and only the task itself looks for the port, with growing pauses.
    for _ in 0..1_000 {
        let Err(BusError::LineDown(_)) = bus.read(holding(1, 0, 1)).await else { panic!("unplugged") };
    }
    status.wait_for(|s| s.error.as_ref().is_some_and(|e| e.contains("no port"))).await.unwrap();
    let gone = bus.status().borrow().wire;
    assert_eq!(gone.opens, before.opens, "there is nothing to open");
    assert!(gone.requests <= before.requests + 1, "nothing is sent into the void: {gone:?}");
    assert_eq!(gone.bytes_in, before.bytes_in, "an end of file is no byte");
    let _sim = plug();
    status.wait_for(|s| s.up).await.unwrap();
    assert!(bus.read(holding(1, 0, 1)).await.is_ok());
    assert_eq!(bus.status().borrow().wire.opens, before.opens + 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_line_and_a_babbling_one_are_not_felt_on_a_good_one() {
    let (dead, mut silent) = at_9600(0);
    let (noisy, babbler) = at_9600(0);
    let (good, mut far) = at_9600(0);
    let Far { mut stream, .. } = babbler;
    let babble = tokio::spawn(async move {
        while stream.write_all(&[0xA5; 16]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    let unheard = ask(&dead, holding(1, 0, 1));
    let drowned = ask(&noisy, holding(1, 0, 1));
    silent.hears(&question(1, 0, 1)).await;
    let begun = Instant::now();
    for word in [1, 2, 3] {
        let answer = ask(&good, holding(1, 0, 1));
        far.hears(&question(1, 0, 1)).await;
        far.says(15, &words(1, &[word])).await;
        assert_eq!(data(answer).await, Ok(Data::Registers(vec![word])));
        assert!(!unheard.is_finished() && !drowned.is_finished(), "three answers in the time of one miss");
    }
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    let wire = good.status().borrow().wire;
    assert_eq!((wire.requests, wire.replies, wire.stale_replies), (3, 3, 0));
    assert_eq!(data(unheard).await, Err(BusError::NoReply));
    assert_eq!(data(drowned).await, Err(BusError::Garbled(Garble::Noise)));
    babble.abort();
}

/// As long as somebody says something now and then, it is slower than what counts as babbling.
#[tokio::test(start_paused = true)]
async fn a_line_that_is_never_quiet_is_given_up_in_time_and_moves_until_then() {
    let (bus, far) = at_9600(0);
    let Far { mut stream, .. } = far;
    let trickle = tokio::spawn(async move {
        while stream.write_all(&[0xA5]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    tokio::task::yield_now().await;
    let (begun, mut pulse) = (Instant::now(), bus.pulse());
    let drowned = ask(&bus, holding(1, 0, 1));
    while !drowned.is_finished() {
        tokio::time::timeout(TIMEOUT, pulse.changed()).await.expect("it moves").unwrap();
    }
    assert_eq!(data(drowned).await, Err(BusError::Garbled(Garble::Noise)));
    assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
    trickle.abort();
}

#[tokio::test]
async fn a_connection_that_comes_about_and_breaks_whenever_it_is_used_is_no_line_that_is_up() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bus = started(line(Port::Tcp(target.local_addr().unwrap().to_string()), 0));
    let mut status = bus.status();
    for _ in 0..2 {
        let broken = ask(&bus, holding(1, 0, 1));
        while !broken.is_finished() {
            tokio::select! {
                taken = target.accept() => drop(taken.unwrap()),
                () = tokio::task::yield_now() => {}
            }
        }
        let Err(BusError::LineDown(_)) = data(broken).await else { panic!("nobody answers there") };
        let opened = status.borrow().wire.opens;
        let again = async { status.wait_for(|s| s.wire.opens > opened).await.unwrap().up };
        let (taken, is_up) = tokio::join!(target.accept(), again);
        assert!(!is_up, "it is connected again, which it was before");
        drop(taken.unwrap());
    }
    let answer = ask(&bus, holding(1, 0, 1));
    let mut stream = target.accept().await.unwrap().0;
    let (number, _) = asked(&mut stream).await;
    stream.write_all(&frame::mbap(number, 1, &[3, 2, 0, 9])).await.unwrap();
    assert!(data(answer).await.is_ok());
    assert!(status.borrow_and_update().up);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_time_passes_while_the_line_settles_is_not_sent() {
    let (bus, mut far) = at_9600(0);
    let first = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    assert_eq!(data(first).await, Err(BusError::NoReply));
    let begun = Instant::now();
    let late = bus.write_by(register(1, 10, 5), Some(begun + Duration::from_millis(10))).await;
    assert_eq!(late, Err(BusError::TooLate));
    assert!(begun.elapsed() > Duration::from_millis(10), "its time was not over when it was its turn");
    assert_eq!(bus.status().borrow().wire.requests, 1);
}

/// The next request on a connection, and its number.
async fn asked(stream: &mut tokio::net::TcpStream) -> (u16, Vec<u8>) {
    let mut frame = [0; 12];
    stream.read_exact(&mut frame).await.unwrap();
    (u16::from_be_bytes([frame[0], frame[1]]), frame[7..].to_vec())
}

#[tokio::test]
async fn a_write_that_left_before_the_connection_broke_is_not_sent_again_on_the_next_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Port::Tcp(listener.local_addr().unwrap().to_string());
    let bus = started(Line { timeout: TIMEOUT * 100, ..line(port, 3) });
    let read = ask(&bus, holding(1, 0, 1));
    let (mut stream, _) = listener.accept().await.unwrap();
    let (number, _) = asked(&mut stream).await;
    stream.write_all(&frame::mbap(number, 1, &[3, 2, 0, 7])).await.unwrap();
    assert_eq!(data(read).await, Ok(Data::Registers(vec![7])));
    let write = tell(&bus, register(1, 10, 5));
    assert_eq!(asked(&mut stream).await.1, [6, 0, 10, 0, 5]);
    drop(stream);
    let again = ask(&bus, holding(1, 0, 1));
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(asked(&mut stream).await.1, [3, 0, 0, 0, 1], "the read, not the write");
    assert!(matches!(data(write).await, Err(BusError::LineDown(_))));
    again.abort();
}
