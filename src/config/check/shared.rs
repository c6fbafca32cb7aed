//! One of each: what equals something that another point has already is that one's. Devices with the same profile differ in
//! little more than name and topic, and there are hundreds of them.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::config::plant::Report;
use crate::config::plant::Wire;

/// What points have in common, while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Shared {
    texts: HashSet<Arc<str>>,
    wires: HashSet<Arc<Wire>>,
    reports: HashSet<Arc<Report>>,
}

impl Shared {
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&new));
        new
    }

    pub(super) fn wire(&mut self, wire: Wire) -> Arc<Wire> {
        one(&mut self.wires, wire)
    }

    pub(super) fn report(&mut self, report: Report) -> Arc<Report> {
        one(&mut self.reports, report)
    }
}

fn one<T: Eq + Hash>(known: &mut HashSet<Arc<T>>, new: T) -> Arc<T> {
    if let Some(known) = known.get(&new) {
        return Arc::clone(known);
    }
    let new = Arc::new(new);
    known.insert(Arc::clone(&new));
    new
}
