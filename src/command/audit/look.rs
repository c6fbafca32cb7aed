//! What somebody wants to see of the trail. Pure: the same for the running gateway and for a file.

use serde::Deserialize;
use serde::Serialize;

use crate::command::audit::entry::Entry;

/// Which entries, counted from the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// Begun at this time or later, RFC 3339 in UTC with milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Of this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Of this client, user or upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Go on with what comes.
    #[serde(skip_serializing_if = "is_false")]
    pub follow: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Wanted {
    /// Whether it is one of them, the number apart.
    pub fn takes(&self, entry: &Entry) -> bool {
        // All times are written alike, so that texts compare as times do.
        self.since.as_deref().is_none_or(|since| entry.time.as_str() >= since)
            && (self.device.is_none() || self.device == entry.draft.device)
            && self.who.as_deref().is_none_or(|who| entry.draft.from.is(who))
    }

    /// Of a slice those that are wanted, `left` of them at most; it is lowered.
    pub fn pick(&self, slice: Vec<Entry>, left: &mut usize) -> Vec<Entry> {
        let found: Vec<Entry> = slice.into_iter().filter(|entry| self.takes(entry)).take(*left).collect();
        *left -= found.len();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::audit::entry::Draft;
    use crate::command::audit::entry::Who;

    #[test]
    fn entries_are_wanted_by_time_device_and_who_and_no_more_than_so_many() {
        let entry = |seq, time: &str, device: &str, client: &str| Entry {
            seq,
            time: time.to_owned(),
            draft: Draft {
                device: Some(device.to_owned()),
                from: Who { client: Some(client.to_owned()), ..Who::default() },
                ..Draft::default()
            },
            outcome: None,
        };
        let slice = || {
            vec![
                entry(4, "2026-11-21T01:00:03.000Z", "a", "hmi"),
                entry(3, "2026-11-21T01:00:02.000Z", "b", "hmi"),
                entry(2, "2026-11-21T01:00:01.000Z", "a", "hmi-2"),
                entry(1, "1970-01-01T00:00:09.000Z", "a", "hmi"),
            ]
        };
        let picked = |wanted: &Wanted| {
            let mut left = wanted.last.unwrap_or(usize::MAX);
            wanted.pick(slice(), &mut left).iter().map(|e| e.seq).collect::<Vec<_>>()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(picked(&Wanted::default()), [4, 3, 2, 1]);
        assert_eq!(picked(&Wanted { device: text("a"), ..Wanted::default() }), [4, 2, 1]);
        assert_eq!(picked(&Wanted { device: text("a"), last: Some(1), ..Wanted::default() }), [4]);
        assert_eq!(picked(&Wanted { who: text("hmi"), ..Wanted::default() }), [4, 3, 1]);
        assert_eq!(picked(&Wanted { since: text("2026-11-21T01:00:02.000Z"), ..Wanted::default() }), [4, 3]);
    }
}
