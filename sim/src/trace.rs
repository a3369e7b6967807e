//! What happened: a running hash for comparing runs, and, when asked for, a story for people.

use std::fmt;

use crate::event::At;

#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    pub events: u64,
    story: Option<Vec<(At, String)>>,
}

impl Trace {
    pub fn new(story: bool) -> Trace {
        Trace { hash: 0x9E37_79B9_7F4A_7C15, events: 0, story: story.then(Vec::new) }
    }

    pub fn fold(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn telling(&self) -> bool {
        self.story.is_some()
    }

    pub fn tell(&mut self, at: At, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push((at, line()));
        }
    }

    pub fn story(&self) -> &[(At, String)] {
        self.story.as_deref().unwrap_or_default()
    }
}

/// A time of the story.
pub struct Stamp(pub At);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} s", self.0 as f64 / 1e6)
    }
}
