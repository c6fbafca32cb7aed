//! The stage of one case: a broker with its directory, and clients by their names. A step is `who verb rest`.
//!
//! A client's verbs: `joins` (`kept`: session of 1000 s, `present`: and it was there), `subscribes FILTER QOS`, `>` bytes, `repeats N` bytes
//! (`%` counts), `<` the next packet, `skips N`, `takes N` PUBLISHes and answers each, `quiet` (nothing but the answer to a ping),
//! `closed [code]`, `drops`, `leaves`, `upgrades [OFFER]` to a WebSocket, `frames binary|text` bytes (`|` between frames); `5?` before a verb:
//! with 5.0 only. `server` `passes N` seconds, `stops` and starts, is `killed` and starts.

use std::collections::HashMap;
use std::net::SocketAddr;

use tempfile::TempDir;
use trunkline::broker;
use trunkline::broker::Broker;
use trunkline::config::plant;

use crate::pattern::Pattern;
use crate::peer;
use crate::peer::Peer;

pub(crate) struct Stage {
    v5: bool,
    settings: plant::Broker,
    users: Vec<(String, String)>,
    state: TempDir,
    broker: Broker,
    clients: HashMap<String, Peer>,
    clocks: u32,
}

impl Stage {
    pub(crate) fn open(v5: bool, settings: plant::Broker, users: Vec<(String, String)>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let broker = start(&settings, &users, &state);
        Self { v5, settings, users, state, broker, clients: HashMap::new(), clocks: 0 }
    }

    /// Sockets that are gone need no time to read a goodbye.
    pub(crate) async fn close(self) {
        drop(self.clients);
        self.broker.stop().await;
    }

    /// Plain TCP is the first listener, WebSocket the second.
    fn address(&self, listener: usize) -> SocketAddr {
        self.broker.addresses()[listener]
    }

    fn pattern(&self, text: &str) -> Pattern {
        Pattern::read(text, self.v5)
    }

    fn client(&mut self, who: &str) -> Result<&mut Peer, String> {
        self.clients.get_mut(who).ok_or_else(|| format!("{who} is not connected"))
    }

    pub(crate) async fn act(&mut self, step: &str) -> Result<(), String> {
        let (who, rest) = step.split_once(' ').ok_or("a step is `who verb …`")?;
        let (only_v5, rest) = rest.strip_prefix("5? ").map_or((false, rest), |rest| (true, rest));
        if only_v5 && !self.v5 {
            return Ok(());
        }
        let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if who == "server" {
            return self.serve(verb, rest).await;
        }
        match verb {
            "joins" => self.join(who, rest).await,
            "subscribes" => {
                let (filter, qos) = rest.split_once(' ').ok_or("subscribes FILTER QOS")?;
                self.say(who, &format!("SUBSCRIBE [ u16:9 {{}} \"{filter}\" 0{qos} ]")).await?;
                self.expect(who, &format!("SUBACK [ u16:9 {{}} 0{qos} ]")).await
            }
            ">" => self.say(who, rest).await,
            "<" => self.expect(who, rest).await,
            "quiet" => {
                self.say(who, "PINGREQ [ ]").await?;
                self.expect(who, "PINGRESP [ ]").await
            }
            "closed" => {
                if !rest.is_empty() && self.v5 {
                    self.expect(who, &format!("DISCONNECT [ {rest} .. ]")).await?;
                }
                self.gone(who).await
            }
            "drops" => {
                self.clients.remove(who);
                Ok(())
            }
            "leaves" => {
                self.say(who, "DISCONNECT [ ]").await?;
                self.gone(who).await
            }
            "upgrades" => self.upgrade(who, rest).await,
            "frames" => self.frames(who, rest).await,
            _ => self.often(who, verb, rest).await,
        }
    }

    async fn often(&mut self, who: &str, verb: &str, rest: &str) -> Result<(), String> {
        let (count, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let count: u32 = count.parse().map_err(|_| format!("no such verb: {verb}"))?;
        match verb {
            "repeats" => {
                for n in 1..=count {
                    self.say(who, &text.replace('%', &n.to_string())).await?;
                }
            }
            "skips" => {
                for _ in 0..count {
                    self.client(who)?.packet().await.ok_or("closed instead")?;
                }
            }
            "takes" => {
                for n in 0..count {
                    self.take(who).await.map_err(|why| format!("{why} after {n}"))?;
                }
            }
            _ => return Err(format!("no such verb: {verb}")),
        }
        Ok(())
    }

    /// One PUBLISH, with all that its QoS asks for; nothing may come in between, as with a receive maximum of 1.
    async fn take(&mut self, who: &str) -> Result<(), String> {
        let publish = self.client(who)?.packet().await.ok_or("closed instead")?;
        let head = 1 + publish[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        let id = head + 2 + usize::from(u16::from_be_bytes([publish[head], publish[head + 1]]));
        match publish[0] & 0xF6 {
            0x30 => return Ok(()),
            0x32 | 0x34 => {}
            _ => return Err(format!("got {publish:02x?}")),
        }
        let id = format!("u16:{}", u16::from_be_bytes([publish[id], publish[id + 1]]));
        if publish[0] & 0x06 == 2 {
            return self.say(who, &format!("PUBACK [ {id} ]")).await;
        }
        self.say(who, &format!("PUBREC [ {id} ]")).await?;
        self.expect(who, &format!("PUBREL [ {id} ]")).await?;
        self.say(who, &format!("PUBCOMP [ {id} ]")).await
    }

    async fn serve(&mut self, verb: &str, rest: &str) -> Result<(), String> {
        match verb {
            "passes" => self.pass(rest).await,
            "stops" => {
                self.clients.clear();
                self.broker.clone().stop().await;
                self.broker = start(&self.settings, &self.users, &self.state);
                Ok(())
            }
            "is" if rest == "killed" => {
                // Two saves: what was there before is on the disk. Then the files as they are, nothing closed.
                self.pass("2").await?;
                let left = tempfile::tempdir().unwrap();
                for file in std::fs::read_dir(self.state.path()).unwrap() {
                    let file = file.unwrap();
                    std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
                }
                self.clients.clear();
                let after = start(&self.settings, &self.users, &left);
                std::mem::replace(&mut self.broker, after).stop().await;
                self.state = left;
                Ok(())
            }
            _ => Err(format!("the server does not {verb}")),
        }
    }

    /// Time by the broker's own clock: a will with so much delay arrives.
    async fn pass(&mut self, seconds: &str) -> Result<(), String> {
        self.clocks += 1;
        let (v5, topic) = (std::mem::replace(&mut self.v5, true), format!("$clock/{}", self.clocks));
        self.join("clock", "").await?;
        self.say("clock", &format!("SUBSCRIBE [ u16:1 00 \"{topic}\" 00 ]")).await?;
        self.expect("clock", "SUBACK [ u16:1 00 00 ]").await?;
        let will = format!("[ 18 u32:{seconds} ] \"{topic}\" \"now\"");
        self.say("hand", &format!("CONNECT [ \"MQTT\" 05 06 u16:0 [ 11 u32:1000 ] \"hand\" {will} ]")).await?;
        self.expect("hand", "CONNACK [ 00 00 .. ]").await?;
        self.clients.remove("hand");
        self.expect("clock", &format!("PUB0 [ \"{topic}\" 00 'now' ]")).await?;
        self.clients.remove("clock");
        self.v5 = v5;
        Ok(())
    }

    async fn join(&mut self, who: &str, how: &str) -> Result<(), String> {
        let kept = how.starts_with("kept");
        let flags = if kept { "00" } else { "02" };
        let properties = if kept { "5/05 5/11 5/u32:1000" } else { "5/00" };
        let level = if self.v5 { "05" } else { "04" };
        self.say(who, &format!("CONNECT [ \"MQTT\" {level} {flags} u16:0 {properties} \"{who}\" ]")).await?;
        let present = u8::from(how.ends_with("present"));
        self.expect(who, &format!("CONNACK [ 0{present} 00 .. ]")).await
    }

    async fn say(&mut self, who: &str, text: &str) -> Result<(), String> {
        let bytes = self.pattern(text).known();
        // CONNECT, and whatever else is first, comes on a new connection; `10` is one on the same.
        if text.starts_with("CONNECT") || !self.clients.contains_key(who) {
            let peer = Peer::connect(self.address(0)).await?;
            self.clients.insert(who.to_owned(), peer);
        }
        self.client(who)?.send(&bytes).await
    }

    async fn upgrade(&mut self, who: &str, offered: &str) -> Result<(), String> {
        let mut peer = Peer::connect(self.address(1)).await?;
        let offered = if offered.is_empty() { "mqtt" } else { offered };
        let chosen = peer.upgrade(offered).await?;
        self.clients.insert(who.to_owned(), peer);
        if chosen == "mqtt" { Ok(()) } else { Err(format!("subprotocol {chosen:?}")) }
    }

    async fn frames(&mut self, who: &str, rest: &str) -> Result<(), String> {
        let (kind, parts) = rest.split_once(' ').ok_or("frames binary|text BYTES")?;
        let kind = if kind == "text" { peer::TEXT } else { peer::BINARY };
        for part in parts.split(" | ") {
            let bytes = self.pattern(part).known();
            self.client(who)?.frame(kind, &bytes).await?;
        }
        Ok(())
    }

    async fn expect(&mut self, who: &str, text: &str) -> Result<(), String> {
        let want = self.pattern(text);
        let Some(got) = self.client(who)?.packet().await else { return Err("closed instead".to_owned()) };
        if want.fits(&got) { Ok(()) } else { Err(format!("got {got:02x?}")) }
    }

    async fn gone(&mut self, who: &str) -> Result<(), String> {
        let mut peer = self.clients.remove(who).ok_or("not connected")?;
        match peer.packet().await {
            None => Ok(()),
            Some(got) => Err(format!("got {got:02x?}")),
        }
    }
}

fn start(settings: &plant::Broker, users: &[(String, String)], state: &TempDir) -> Broker {
    let state_dir = state.path().to_owned();
    let options = broker::Options { gateway: "test".into(), state_dir, users: users.to_vec() };
    broker::start(settings.clone(), options).unwrap()
}
