//! The log of a gateway that does not run, looked at and cleared by a person: the same log, opened where it lies, without
//! a thread. Opening it keeps the gateway out until it is dropped, as the gateway keeps this out.

use super::Seq;
use super::SpoolError;
use super::Subscriber;
use super::log::Log;
use super::look::Slice;
use super::thread::Cleared;
use crate::config::plant;
use crate::status::SpoolStatus;
use crate::time;

/// An opened file.
#[derive(Debug)]
pub struct Stored {
    log: Log,
    settings: plant::Spool,
}

impl Stored {
    /// Opens the file of these settings; refused while a gateway runs on it.
    pub fn open(settings: plant::Spool, upstreams: Vec<Subscriber>) -> Result<Self, SpoolError> {
        let log = Log::stored(settings.clone(), upstreams)?;
        Ok(Self { log, settings })
    }

    /// What waits behind `after`.
    pub fn look(&self, after: Seq) -> Result<Slice, SpoolError> {
        self.log.look_or_say(after, time::now())
    }

    /// How things stand.
    pub fn status(&self) -> SpoolStatus {
        self.log.status()
    }

    /// Throws away what waits for this upstream, or for all.
    pub fn clear(&mut self, upstream: Option<&str>) -> Result<Vec<Cleared>, SpoolError> {
        let cleared = self.log.clear_named(upstream, time::now())?;
        self.log.close();
        match self.log.status().error {
            Some(why) => Err(SpoolError::unusable(&self.settings.path, why)),
            None => Ok(cleared),
        }
    }
}
