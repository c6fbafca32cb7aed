//! The broker's state machine: packets and time in, bytes, closes and local deliveries out. No socket, no clock, no lock.
//! This file is the life of connections: connect, close, time. `seat` is the life of their sessions, `inbound` handles the
//! packets of a connected client, `deliver` moves messages to subscribers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::access::Access;
pub use super::admission::Guest;
use super::conn::Conn;
use super::conn::MAX_ALIASES;
use super::conn::STALL;
use super::conn::WRITE_AHEAD;
use super::deliver::Local;
use super::keep::Keep;
use super::packet::Code;
use super::packet::Connect;
use super::packet::Fault;
use super::packet::encode;
use super::packet::encode::ConnAck;
use super::queue::Bounds;
use super::retained::Retained;
use super::router::Match;
use super::router::Router;
use super::seat::Seat;
use super::session::MAX_UNRELEASED;
use super::slab::Slab;
use super::sys::Loads;
use super::traffic::Counts;
use super::traffic::Traffic;
use crate::config::plant::Limits;
use crate::message::Origin;

/// A client that asks for less frequent signs of life gets this (server keep-alive, 3.2.2.3.14).
const MAX_KEEP_ALIVE: u16 = 3600;

/// Bytes to write, and what then.
#[derive(Debug, Default)]
pub struct Output {
    /// In order.
    pub chunks: std::collections::VecDeque<bytes::Bytes>,
    /// Close when they are written.
    pub closing: bool,
    /// Do not read from it for now.
    pub stalled: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    pub(super) limits: Limits,
    pub(super) bounds: Bounds,
    pub(super) access: Access,
    pub(super) conns: Slab<Conn>,
    pub(super) seats: Slab<Seat>,
    pub(super) locals: Slab<Local>,
    pub(super) by_id: HashMap<Arc<str>, usize>,
    pub(super) router: Router,
    pub(super) retained: Retained,
    pub(super) counts: Counts,
    pub(super) started: Instant,
    /// Connections that have something to write or are to be closed.
    pub(super) woken: Vec<usize>,
    /// Closes that routing asked for; done when it has ended.
    pub(super) doomed: Vec<(usize, Fault)>,
    pub(super) scratch: Vec<Match>,
    pub(super) keep: Keep,
    pub(super) loads: Loads,
    /// Bytes that QoS 0 may write ahead of one connection at this moment.
    pub(super) room: usize,
    /// Bytes that wait for absent clients: exact at each tick, at most too many in between.
    pub(super) away_bytes: usize,
    swept: Instant,
}

impl Core {
    /// An empty broker.
    pub fn new(limits: Limits, access: Access, now: Instant) -> Self {
        Self {
            limits,
            bounds: Bounds::of(&limits),
            access,
            conns: Slab::default(),
            seats: Slab::default(),
            locals: Slab::default(),
            by_id: HashMap::new(),
            router: Router::default(),
            retained: Retained::default(),
            counts: Counts::default(),
            started: now,
            woken: Vec::new(),
            doomed: Vec::new(),
            scratch: Vec::new(),
            keep: Keep::default(),
            loads: Loads::default(),
            room: WRITE_AHEAD,
            away_bytes: 0,
            swept: now,
        }
    }

    /// The rules, for the first step of a login.
    pub const fn access(&self) -> &Access {
        &self.access
    }

    /// In force now, where a listener has none of its own.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Most messages that wait for one client.
    pub const fn queue_limit(&self) -> usize {
        self.bounds.messages
    }

    /// Whether the queue of a connected client is more than half full: it acknowledges slower than messages come.
    pub fn is_crowded(&self) -> bool {
        self.seats.iter().any(|(_, seat)| seat.conn.is_some() && seat.session.is_crowded())
    }

    /// New bounds, for those who come from now on.
    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        self.bounds = Bounds::of(&limits);
    }

    /// The client sent what is no packet.
    pub fn fault(&mut self, now: Instant, key: usize, fault: Fault) {
        self.close(now, key, fault);
        self.settle(now);
    }

    /// Accepts a CONNECT or says why not. The answer is in the new connection's outbox.
    pub fn connect(&mut self, now: Instant, mut connect: Connect, guest: Guest) -> Result<usize, Code> {
        if connect.auth_method {
            return Err(Code::BAD_AUTH_METHOD);
        }
        let assigned = self.assign_id(&mut connect)?;
        let client_id: Arc<str> = connect.client_id.as_str().into();
        let full = self.conns.len() >= self.limits.clients || self.came_through(guest.door) >= guest.limits.clients;
        if full && !self.by_id.contains_key(&client_id) {
            return Err(if connect.version.is_v5() { Code::QUOTA_EXCEEDED } else { Code::SERVER_BUSY });
        }
        let grant = self.access.grant(guest.user.as_deref(), &client_id, guest.peer.ip());
        // Mosquitto's bridges have their state under $SYS as a will; refusing them for that would shut them out.
        connect.will = connect.will.filter(|will| !will.message.topic.as_str().starts_with("$SYS/"));
        if connect.will.as_ref().is_some_and(|will| !grant.may_write(&will.message.topic)) {
            return Err(Code::NOT_AUTHORIZED);
        }
        let (user, peer) = (guest.user.clone(), guest.peer);
        let origin = Arc::new(Origin::Client { client_id: Arc::clone(&client_id), user, peer });
        if let Some(will) = &mut connect.will {
            will.message.from = Some(Arc::clone(&origin));
        }
        let asked = connect.keep_alive;
        let keep_alive = if connect.version.is_v5() { asked.min(MAX_KEEP_ALIVE) } else { asked };
        let (limits, bounds) = (guest.limits, Bounds::of(&guest.limits));
        let mut ack = ConnAck {
            session_present: false,
            assigned_id: assigned.then(|| Arc::clone(&client_id)),
            keep_alive: (keep_alive != asked).then_some(keep_alive),
            receive_maximum: MAX_UNRELEASED,
            alias_maximum: MAX_ALIASES,
            packet_maximum: u32::try_from(limits.packet).unwrap_or(u32::MAX),
        };
        // Asked before anybody is taken over: who cannot be answered does not come in (MQTT-3.1.2-24).
        let mut outbox = encode::Outbox::limited(connect.packet_maximum);
        if !encode::connack(&mut outbox, connect.version, &ack) {
            return Err(Code::IMPLEMENTATION_SPECIFIC);
        }
        outbox.take();
        let seat;
        (seat, ack.session_present) = self.take_seat(now, &connect, &client_id, guest.user.as_ref());
        // Rules may have changed while it was away.
        self.prune(seat, &grant);
        encode::connack(&mut outbox, connect.version, &ack);
        let key = self.conns.insert(Conn {
            session: Some(seat),
            client_id,
            guest,
            origin,
            grant,
            version: connect.version,
            keep_alive,
            heard: now,
            problem_information: connect.problem_information,
            session_expiry: connect.session_expiry,
            outbox,
            writing: 0,
            closing: false,
            aliases_in: Vec::new(),
            aliases_out: HashMap::new(),
            alias_maximum: connect.alias_maximum.min(MAX_ALIASES),
            clean_start: connect.clean_start,
            traffic: Traffic::new(now),
        });
        self.counts.connects += 1;
        self.counts.packets_in += 1;
        self.counts.maximum = self.counts.maximum.max(self.conns.len() as u64);
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.conn = Some(key);
            seat.expiry = connect.session_expiry;
            seat.will.hold(connect.will);
            seat.session.bound(bounds);
            seat.session.resume(connect.receive_maximum);
        }
        self.woken.push(key);
        self.pump(now, key);
        self.settle(now);
        Ok(key)
    }

    /// DISCONNECT with the reason, then nothing more. The session is not touched.
    pub(super) fn say_goodbye(&mut self, key: usize, fault: Fault) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.closing {
            return;
        }
        conn.session = None;
        conn.closing = true;
        let why = conn.problem_information.then_some(fault.why);
        if fault.code != Code::SUCCESS {
            encode::disconnect(&mut conn.outbox, conn.version, fault.code, why);
        }
        self.woken.push(key);
    }

    /// Ends a client's connection because somebody here wishes so; false when it is not connected.
    pub fn kick(&mut self, now: Instant, client_id: &str) -> bool {
        let seat = self.by_id.get(client_id).and_then(|key| self.seats.get(*key));
        let Some(key) = seat.and_then(|seat| seat.conn) else { return false };
        self.close(now, key, Fault { code: Code::ADMINISTRATIVE, why: "ended by the operator" });
        self.settle(now);
        true
    }

    /// A socket was opened to a listener.
    pub const fn accepted(&mut self) {
        self.counts.sockets += 1;
    }

    /// Bytes came from a client.
    pub fn read(&mut self, key: usize, bytes: usize) {
        self.counts.bytes_in += bytes as u64;
        if let Some(conn) = self.conns.get_mut(key) {
            conn.traffic.read(bytes);
        }
    }

    /// Ends a connection because of what the client did or did not do; its will is sent.
    pub fn close(&mut self, now: Instant, key: usize, fault: Fault) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.closing) else { return };
        tracing::info!(client = %conn.client_id, peer = %conn.guest.peer, reason = fault.why, code = fault.code.0, "client closed");
        self.say_goodbye_and_leave(now, key, fault);
    }

    /// The socket is gone; the number may be used again after this.
    pub fn gone(&mut self, now: Instant, key: usize) {
        let Some(mut conn) = self.conns.remove(key) else { return };
        if let Some(seat) = conn.session.take() {
            tracing::debug!(client = %conn.client_id, "client went without DISCONNECT");
            self.leave(now, seat, conn.session_expiry);
        }
        self.settle(now);
    }

    /// What time does: keep-alives, delayed wills, expired sessions. To be called about twice a second.
    pub fn tick(&mut self, now: Instant) {
        let silent: Vec<usize> =
            self.conns.iter().filter(|(_, c)| !c.closing && c.is_silent(now)).map(|(key, _)| key).collect();
        for key in silent {
            self.close(now, key, Fault { code: Code::KEEP_ALIVE_TIMEOUT, why: "nothing heard for 1.5 keep-alives" });
        }
        self.expire(now);
        let away = self.seats.iter().filter(|(_, seat)| seat.conn.is_none());
        self.away_bytes = away.map(|(_, seat)| seat.session.bytes()).sum();
        if now.saturating_duration_since(self.swept) > Duration::from_secs(60) {
            self.swept = now;
            for expired in self.retained.sweep(now) {
                self.keep.touch(now, &expired.message);
            }
            self.seats.iter_mut().for_each(|seat| seat.session.drop_expired(now));
        }
        self.settle(now);
    }

    /// Closes what routing found to be too slow. Closing may send wills, which may doom others: until nobody is left.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some((key, fault)) = self.doomed.pop() {
            self.close(now, key, fault);
        }
    }

    /// What is to be written to a connection now.
    pub fn take_output(&mut self, key: usize) -> Output {
        let stalled = self.is_stalled(key);
        let Some(conn) = self.conns.get_mut(key) else { return Output { closing: true, ..Output::default() } };
        conn.writing += conn.outbox.len();
        self.counts.bytes_out += conn.outbox.len() as u64;
        self.counts.packets_out += conn.outbox.take_count();
        conn.traffic.written(conn.outbox.len());
        Output { chunks: conn.outbox.take(), closing: conn.closing, stalled }
    }

    /// Whether so much is unwritten that its packets are not to be read for now: answers to them are bytes too. One packet of
    /// any size may be written beyond the limit; that alone is no reason to be deaf.
    pub fn is_stalled(&self, key: usize) -> bool {
        self.conns.get(key).is_some_and(|conn| conn.unwritten() > STALL + conn.guest.limits.packet)
    }

    /// All that was taken is written: there is room for more.
    pub fn written(&mut self, now: Instant, key: usize) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.writing = 0;
            if let Some(seat) = conn.session.and_then(|seat| self.seats.get_mut(seat)) {
                seat.session.take_turn();
            }
            self.pump(now, key);
        }
    }

    /// Connections that have something to write since the last call; some may be named twice.
    pub fn take_woken(&mut self, into: &mut Vec<usize>) {
        into.append(&mut self.woken);
    }

    /// Whether a connection is to be closed.
    pub fn is_closing(&self, key: usize) -> bool {
        self.conns.get(key).is_none_or(|conn| conn.closing)
    }
}
