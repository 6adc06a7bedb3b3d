//! What no disk takes, told in the log: a line a second at most, however many records come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two lines.
const APART: Duration = Duration::from_secs(1);
/// Copies in one line, bytes: a journal cuts lines of 48 KiB.
const LINE: usize = 32 << 10;

/// What is still to be told.
pub(super) struct Unstored {
    reason: String,
    /// Records and intents that were refused.
    refused: u64,
    /// Last copies of records, encrypted; the records are also held in memory, until there are too many.
    copies: VecDeque<String>,
    /// So many wait for their line; more are told at once.
    most: usize,
    said: Option<Instant>,
}

/// One line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) reason: String,
    pub(super) refused: u64,
    /// With blanks between them.
    pub(super) copies: String,
}

impl Unstored {
    pub(super) fn new(most: usize) -> Self {
        Self { reason: String::new(), refused: 0, copies: VecDeque::new(), most, said: None }
    }

    /// A group was refused.
    pub(super) fn refuse(&mut self, reason: &std::io::Error, items: usize) {
        self.reason = reason.to_string();
        self.refused += items as u64;
    }

    /// The last copy of a record; it is told unless the record itself is stored first.
    pub(super) fn keep(&mut self, copy: String) {
        self.copies.push_back(copy);
    }

    /// Everything that is held in memory has been stored.
    pub(super) fn stored(&mut self) {
        self.copies.clear();
    }

    /// How long the next line waits; none: there is nothing to tell.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let something = self.refused > 0 || !self.copies.is_empty();
        something.then(|| match self.said {
            // What memory does not hold is told at once.
            _ if self.copies.len() > self.most => Duration::ZERO,
            Some(said) => APART.saturating_sub(now.saturating_duration_since(said)),
            None => Duration::ZERO,
        })
    }

    /// The line that is due.
    pub(super) fn line(&mut self, now: Instant) -> Option<Line> {
        if self.wait(now)? > Duration::ZERO {
            return None;
        }
        self.said = Some(now);
        self.next()
    }

    /// The next line, due or not.
    pub(super) fn next(&mut self) -> Option<Line> {
        if self.refused == 0 && self.copies.is_empty() {
            return None;
        }
        let mut copies = self.copies.pop_front().unwrap_or_default();
        while let Some(next) = self.copies.front().filter(|next| copies.len() + next.len() < LINE) {
            copies.push(' ');
            copies.push_str(next);
            self.copies.pop_front();
        }
        Some(Line { reason: self.reason.clone(), refused: std::mem::take(&mut self.refused), copies })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is refused and whenever, there is a line a second at most, each copy is told once, and none is lost
        /// that was not stored.
        #[test]
        fn sk_05_a_line_a_second_at_most(steps in proptest::collection::vec((0..900_u64, 1..40_usize, 1..4000_usize), 1..60)) {
            let (began, full) = (Instant::now(), std::io::Error::from(std::io::ErrorKind::StorageFull));
            let (mut now, mut told, mut kept, mut refused, mut said) = (began, String::new(), Vec::new(), 0, Vec::new());
            let mut unstored = Unstored::new(10_000);
            for (number, (after, items, length)) in steps.into_iter().enumerate() {
                now += Duration::from_millis(after);
                unstored.refuse(&full, items);
                refused += items as u64;
                let copy = format!("<{number}{}>", "x".repeat(length));
                kept.push(copy.clone());
                unstored.keep(copy);
                if let Some(line) = unstored.line(now) {
                    prop_assert!(line.copies.len() <= LINE);
                    told.push_str(&line.copies);
                    refused -= line.refused;
                    said.push(now);
                }
            }
            prop_assert!(said.windows(2).all(|pair| pair[1] - pair[0] >= APART));
            while let Some(line) = unstored.next() {
                told.push_str(&line.copies);
                refused -= line.refused;
            }
            prop_assert_eq!(refused, 0);
            for copy in kept {
                prop_assert_eq!(told.matches(&copy).count(), 1);
            }
        }
    }

    /// More than memory holds is told at once, and what was stored is not told.
    #[test]
    fn what_memory_does_not_hold_is_told_at_once() {
        let now = Instant::now();
        let mut unstored = Unstored::new(2);
        unstored.keep("a".into());
        assert_eq!(unstored.line(now).map(|line| line.copies), Some("a".to_owned()));
        for copy in ["b", "c"] {
            unstored.keep(copy.into());
        }
        assert_eq!(unstored.line(now), None);
        unstored.keep("d".into());
        assert_eq!(unstored.line(now).map(|line| line.copies), Some("b c d".to_owned()));
        unstored.keep("e".into());
        unstored.stored();
        assert_eq!((unstored.wait(now), unstored.next()), (None, None));
    }
}
