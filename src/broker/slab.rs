//! Things under small numbers that are used again: connections, sessions, local subscribers.

/// A vector with holes.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps a thing and says its number.
    pub fn insert(&mut self, thing: T) -> usize {
        if let Some(key) = self.free.pop() {
            self.slots[key] = Some(thing);
            return key;
        }
        self.slots.push(Some(thing));
        self.slots.len() - 1
    }

    /// Gives a thing back; its number may be used again.
    pub fn remove(&mut self, key: usize) -> Option<T> {
        let thing = self.slots.get_mut(key)?.take()?;
        self.free.push(key);
        Some(thing)
    }

    /// The thing with this number.
    pub fn get(&self, key: usize) -> Option<&T> {
        self.slots.get(key)?.as_ref()
    }

    /// The thing with this number, to change it.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.slots.get_mut(key)?.as_mut()
    }

    /// All of them, in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.slots.iter().enumerate().filter_map(|(key, slot)| Some((key, slot.as_ref()?)))
    }

    /// All of them, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// There is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
