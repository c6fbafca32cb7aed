//! What was read from a server and not looked at yet.

use std::io;
use std::io::Read;

use super::read;
use super::read::Front;
use super::read::Said;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Bytes in order; whole packets come off the front.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// Before it everything was looked at.
    start: usize,
    /// Behind it nothing was read.
    end: usize,
}

impl Inbox {
    /// Reads once; 0 is the end of the stream.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.bytes.len() < self.end + CHUNK {
            self.bytes.resize(self.end + CHUNK, 0);
        }
        let read = from.read(&mut self.bytes[self.end..])?;
        self.end += read;
        Ok(read)
    }

    /// Looks at the next packet, if it is there whole.
    pub fn next<T>(&mut self, look: impl FnOnce(Said<'_>) -> T) -> io::Result<Option<T>> {
        match read::front(&self.bytes[self.start..self.end]) {
            Front::More => Ok(None),
            Front::Wrong => Err(io::Error::new(io::ErrorKind::InvalidData, "the broker sent what is no packet")),
            Front::Packet(said, length) => {
                let looked = look(said);
                self.start += length;
                Ok(Some(looked))
            }
        }
    }
}
