//! The core's answers to the packets of a connected client, clause by clause.

use std::sync::Arc;
use std::time::Instant;

use super::core::Core;
use super::packet::Ack;
use super::packet::Code;
use super::packet::Disconnect;
use super::packet::Fault;
use super::packet::Packet;
use super::packet::Publish;
use super::packet::RetainHandling;
use super::packet::Subscribe;
use super::packet::Unsubscribe;
use super::packet::Wanted;
use super::packet::encode;
use super::queue::Queue;
use super::queue::Told;
use super::router::Subscriber;
use super::router::Subscription;
use super::session::MAX_UNRELEASED;
use super::session::Subscribed;
use crate::message::Class;
use crate::message::Message;
use crate::topic::Qos;

/// An answer that the message's QoS, or how far it has got, does not allow (MQTT-3.3.4-1, 4.3).
const OUT_OF_TURN: Fault = Fault::protocol("an acknowledgement of another kind than the message is due");

impl Core {
    /// Handles one packet of a connected client.
    pub fn packet(&mut self, now: Instant, key: usize, packet: Packet) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.closing) else { return };
        conn.heard = now;
        self.counts.packets_in += 1;
        let Some(seat) = conn.session else { return };
        let done = match packet {
            Packet::Publish(publish) => self.on_publish(now, key, seat, publish),
            Packet::PubAck(ack) => self.on_ack(now, key, seat, |queue| queue.acknowledged(ack.id)),
            Packet::PubComp(ack) => self.on_ack(now, key, seat, |queue| queue.completed(ack.id)),
            Packet::PubRec(ack) => self.on_pubrec(now, key, seat, ack),
            Packet::PubRel(ack) => self.on_pubrel(key, seat, ack),
            Packet::Subscribe(subscribe) => self.on_subscribe(now, key, seat, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(key, seat, &unsubscribe),
            Packet::PingReq => {
                encode::pingresp(&mut conn.outbox);
                self.woken.push(key);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.on_disconnect(now, key, disconnect),
            Packet::Auth => Err(Fault::protocol("no enhanced authentication was agreed on")),
            Packet::Connect(_) => Err(Fault::protocol("CONNECT twice")),
        };
        if let Err(fault) = done {
            self.close(now, key, fault);
        }
        self.settle(now);
    }

    fn on_publish(&mut self, now: Instant, key: usize, seat: usize, publish: Publish) -> Result<(), Fault> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        let topic = conn.topic_of(&publish)?;
        let allowed = conn.grant.may_write(&topic);
        let v5 = conn.version.is_v5();
        conn.traffic.published();
        let from = Some(Arc::clone(&conn.origin));
        self.counts.messages_in += 1;
        self.counts.payload_in += publish.payload.len() as u64;
        let Publish { qos, retain, id, payload, properties, .. } = publish;
        let message = Message { topic, payload, qos, retain, properties, class: Class::Normal, own: None, from };
        let origin = Some(Subscriber::Session(seat));
        let Some(id) = id else {
            if allowed {
                self.route(now, origin, None, message);
            }
            return Ok(());
        };
        if qos == Qos::ExactlyOnce {
            let Some(known) =
                self.seats.get(seat).map(|s| (s.session.unreleased().contains(&id), s.session.unreleased().len()))
            else {
                return Ok(());
            };
            if known.0 {
                self.answer(key, 5, id, Code::SUCCESS);
                return Ok(());
            }
            if v5 && known.1 >= usize::from(MAX_UNRELEASED) {
                let code = Code::RECEIVE_MAXIMUM_EXCEEDED;
                return Err(Fault { code, why: "more unreleased messages than the receive maximum" });
            }
        }
        let kind = if qos == Qos::ExactlyOnce { 5 } else { 4 };
        if !allowed && v5 {
            self.answer(key, kind, id, Code::NOT_AUTHORIZED);
            return Ok(());
        }
        // Before 5.0 there is no word for "not allowed": it is acknowledged and goes nowhere (MQTT-3.3.5-2).
        if let (Qos::ExactlyOnce, Some(seat)) = (qos, self.seats.get_mut(seat)) {
            seat.session.took(id);
        }
        let matched = allowed && self.route(now, origin, None, message);
        self.answer(key, kind, id, if matched { Code::SUCCESS } else { Code::NO_MATCHING_SUBSCRIBERS });
        Ok(())
    }

    fn answer(&mut self, key: usize, kind: u8, id: u16, code: Code) {
        if let Some(conn) = self.conns.get_mut(key) {
            encode::ack(&mut conn.outbox, conn.version, kind, Ack { id, code });
            self.woken.push(key);
        }
    }

    fn on_ack(
        &mut self,
        now: Instant,
        key: usize,
        seat: usize,
        tell: impl FnOnce(&mut Queue) -> Told,
    ) -> Result<(), Fault> {
        match self.seats.get_mut(seat).map(|seat| tell(seat.session.queue())) {
            Some(Told::OutOfTurn) => Err(OUT_OF_TURN),
            _ => {
                self.pump(now, key);
                Ok(())
            }
        }
    }

    fn on_pubrec(&mut self, now: Instant, key: usize, seat: usize, ack: Ack) -> Result<(), Fault> {
        if ack.code.is_failure() {
            return self.on_ack(now, key, seat, |queue| queue.refused(ack.id));
        }
        match self.seats.get_mut(seat).map_or(Told::Unknown, |seat| seat.session.queue().received(ack.id)) {
            Told::OutOfTurn => return Err(OUT_OF_TURN),
            Told::Known => self.answer(key, 6, ack.id, Code::SUCCESS),
            Told::Unknown => self.answer(key, 6, ack.id, Code::ID_NOT_FOUND),
        }
        Ok(())
    }

    fn on_pubrel(&mut self, key: usize, seat: usize, ack: Ack) -> Result<(), Fault> {
        let known = self.seats.get_mut(seat).is_some_and(|seat| seat.session.release(ack.id));
        self.answer(key, 7, ack.id, if known { Code::SUCCESS } else { Code::ID_NOT_FOUND });
        Ok(())
    }

    fn on_subscribe(&mut self, now: Instant, key: usize, seat: usize, packet: Subscribe) -> Result<(), Fault> {
        let mut codes = Vec::with_capacity(packet.filters.len());
        let mut replays = Vec::new();
        for wanted in packet.filters {
            let (code, replay) = self.subscribe_one(key, seat, packet.identifier, wanted);
            codes.push(code);
            replays.extend(replay);
        }
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        encode::suback(&mut conn.outbox, conn.version, packet.id, &codes);
        self.woken.push(key);
        if let Some(seat) = self.seats.get_mut(seat) {
            for subscribed in &replays {
                seat.session.replay(subscribed);
            }
        }
        self.pump(now, key);
        Ok(())
    }

    fn subscribe_one(
        &mut self,
        key: usize,
        seat: usize,
        identifier: Option<u32>,
        wanted: Wanted,
    ) -> (Code, Option<Subscribed>) {
        let Some(filter) = wanted.filter else { return (Code::FILTER_INVALID, None) };
        let Some(conn) = self.conns.get(key) else { return (Code::UNSPECIFIED, None) };
        let (allowed, most) = (conn.grant.may_read(&filter), conn.guest.limits.subscriptions);
        let Some(session) = self.seats.get_mut(seat).map(|seat| &mut seat.session) else {
            return (Code::UNSPECIFIED, None);
        };
        if !allowed {
            return (Code::NOT_AUTHORIZED, None);
        }
        let full = session.subscriptions().len() >= most || self.router.is_full();
        if full && !session.subscriptions().contains_key(&wanted.text) {
            return (Code::QUOTA_EXCEEDED, None);
        }
        let options = wanted.options;
        let subscribed = Subscribed { filter, group: wanted.group, identifier, options };
        let who = Subscriber::Session(seat);
        self.router.insert(&subscribed.filter, subscribed.group.as_ref(), Subscription { who, options, identifier });
        let old = session.subscribe(Arc::clone(&wanted.text), subscribed.clone());
        let replay = match options.retain_handling {
            // Shared subscriptions get no retained messages (4.8.2).
            _ if subscribed.group.is_some() => false,
            RetainHandling::Always => true,
            RetainHandling::IfNew => old.is_none(),
            RetainHandling::Never => false,
        };
        (Code(u8::from(options.qos)), replay.then_some(subscribed))
    }

    fn on_unsubscribe(&mut self, key: usize, seat_key: usize, packet: &Unsubscribe) -> Result<(), Fault> {
        let Some(seat) = self.seats.get_mut(seat_key) else { return Ok(()) };
        let mut codes = Vec::with_capacity(packet.filters.len());
        for text in &packet.filters {
            let Some(old) = seat.session.unsubscribe(text) else {
                codes.push(Code::NO_SUBSCRIPTION_EXISTED);
                continue;
            };
            if old.group.is_none() {
                seat.session.stop_replay(&old.filter);
            }
            self.router.remove(&old.filter, old.group.as_ref(), Subscriber::Session(seat_key));
            codes.push(Code::SUCCESS);
        }
        if let Some(conn) = self.conns.get_mut(key) {
            encode::unsuback(&mut conn.outbox, conn.version, packet.id, &codes);
            self.woken.push(key);
        }
        Ok(())
    }

    fn on_disconnect(&mut self, now: Instant, key: usize, packet: Disconnect) -> Result<(), Fault> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        if let Some(expiry) = packet.session_expiry {
            if conn.session_expiry == 0 && expiry > 0 {
                return Err(Fault::protocol("session expiry that was 0 at CONNECT"));
            }
            conn.session_expiry = expiry;
        }
        if let (Code::SUCCESS, Some(seat)) = (packet.code, conn.session.and_then(|seat| self.seats.get_mut(seat))) {
            seat.will.take();
        }
        self.say_goodbye_and_leave(now, key, Fault { code: Code::SUCCESS, why: "as the client wished" });
        Ok(())
    }
}
