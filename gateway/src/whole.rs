//! Documents that are held whole, because they are compared, shown, translated, drawn or wrapped as one. All of them have
//! one budget of memory, in which each country and each professional has a share; it counts the bytes and what is made of
//! them, while they grow and until the last reader of them has gone.
//!
//! What a document takes is given back with its bytes: [`Bytes`] that come from here own their part of the budget, so that
//! whoever has a piece of them, a connection that is read slowly too, keeps it.

use std::fmt::Display;

use bytes::Bytes;
use ncp_ihe::orcd;
use ncp_xml::{Busy, Charge, InFlight};

/// The budget of all documents that are held.
pub static WHOLE: InFlight = InFlight::new(384 << 20, 40);
/// What a document of unknown size has at first.
const FIRST: usize = 64 << 10;

/// Why a document is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHeld {
    /// Others, or the same country or professional, hold what there is.
    Busy,
    /// It is larger than a document may be.
    TooLarge,
}

impl From<Busy> for NotHeld {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

/// For whom a document is held: the other country, and the professional who asks or the system that asks for her.
#[derive(Debug, Clone)]
pub struct Holder([String; 2]);

impl Holder {
    /// The other country, in what it asks or in what it answers, and under what the caller has its share.
    pub fn new(country: impl Display, caller: &str) -> Self {
        Self([country.to_string(), format!("caller {caller}")])
    }

    /// Nothing yet of a document that has at most so many bytes.
    pub fn gather(&self, most: usize) -> Gathering {
        Gathering { bytes: Vec::new(), room: Room(WHOLE.charge_each(self.0.clone())), most }
    }

    /// Memory for what is made, taken before it is made.
    ///
    /// # Errors
    /// [`NotHeld::Busy`].
    pub fn room(&self, bytes: usize) -> Result<Room, NotHeld> {
        let mut room = Room(WHOLE.charge_each(self.0.clone()));
        room.0.grow(bytes)?;
        Ok(room)
    }

    /// The PDF or picture that a CDA holds (see [`orcd::held_with_person`]).
    ///
    /// # Errors
    /// [`NotHeld::Busy`].
    pub fn inside(&self, cda: &[u8]) -> Result<Option<(orcd::Person, &'static str, Bytes)>, NotHeld> {
        let room = self.room(cda.len().div_ceil(4) * 3)?;
        let held = orcd::held_with_person(cda)?;
        Ok(held.map(|(person, media_type, bytes)| (person, media_type, room.keep(bytes))))
    }
}

/// Memory that was taken.
#[derive(Debug)]
pub struct Room(Charge);

impl Room {
    /// What was made, with as much of the memory as it needs.
    pub fn keep(mut self, made: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        self.0.settle(made.as_ref().len());
        Bytes::from_owner(Kept { bytes: made, _charge: self.0 })
    }
}

struct Kept<B> {
    bytes: B,
    _charge: Charge,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Kept<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// A document as it comes.
#[derive(Debug)]
pub struct Gathering {
    bytes: Vec<u8>,
    room: Room,
    most: usize,
}

impl Gathering {
    /// Takes the memory of a document whose size is known, before its first byte comes.
    ///
    /// # Errors
    /// [`NotHeld`].
    pub fn expect(&mut self, size: usize) -> Result<(), NotHeld> {
        self.fits(size)?;
        self.reach(size)
    }

    /// Adds what came.
    ///
    /// # Errors
    /// [`NotHeld`].
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), NotHeld> {
        let length = self.bytes.len().saturating_add(chunk.len());
        self.fits(length)?;
        if length > self.bytes.capacity() {
            let twice = self.bytes.capacity().saturating_mul(2).max(FIRST);
            self.reach(twice.min(self.most).max(length))?;
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    fn fits(&self, length: usize) -> Result<(), NotHeld> {
        if length > self.most { Err(NotHeld::TooLarge) } else { Ok(()) }
    }

    /// While bytes are moved to where more of them have place, they stand twice.
    fn reach(&mut self, capacity: usize) -> Result<(), NotHeld> {
        let more = capacity.saturating_sub(self.bytes.len());
        if capacity > self.bytes.capacity() {
            // What no share has place for will not be taken later either.
            let both = self.bytes.capacity().saturating_add(capacity);
            let never = if both > WHOLE.share() { NotHeld::TooLarge } else { NotHeld::Busy };
            self.room.0.grow(capacity).map_err(|_| never)?;
            self.bytes.try_reserve_exact(more).map_err(|_| NotHeld::Busy)?;
            self.room.0.settle(self.bytes.capacity());
        }
        Ok(())
    }

    /// The whole document.
    pub fn end(self) -> Bytes {
        self.room.keep(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// SE-07: whatever one professional and one country hold, in whatever pieces it comes and however slowly it is read,
        /// neither has more than its share, everybody else finds memory, and all of it comes back with the last byte.
        #[test]
        fn se_07_documents_are_held_within_the_shares_of_country_and_professional(
            documents in prop::collection::vec((1..70usize, 1..9usize, 0..3u8), 1..12),
        ) {
            // Of countries of its own: the budget is that of the process, and other tests take from it too.
            let anna = "anna";
            let mut held: Vec<(u8, Bytes)> = Vec::new();
            for (mib, pieces, end) in documents {
                let mut gathering = Holder::new("property", anna).gather(64 * MIB);
                let piece = vec![0; mib * MIB / pieces];
                let came = (0..pieces).try_for_each(|_| gathering.push(&piece));
                if mib / pieces * pieces > 64 {
                    prop_assert!(came.is_err());
                }
                if came.is_ok() {
                    held.push((end, gathering.end()));
                }
                let sum: usize = held.iter().map(|(_, bytes)| bytes.len()).sum();
                prop_assert!(sum <= WHOLE.share());
                // Who is read to the end gives back, whose last byte is still wanted does not.
                held.retain_mut(|(end, bytes)| match end {
                    0 => true,
                    1 => { *bytes = bytes.split_off(bytes.len() - 1); true }
                    _ => false,
                });
                prop_assert!(Holder::new("another", "berit").room(64 * MIB).is_ok());
            }
            drop(held);
            for holder in [Holder::new("property", "carl"), Holder::new("third", anna)] {
                prop_assert!(holder.room(WHOLE.share() - MIB).is_ok(), "all comes back");
            }
        }
    }

    #[test]
    fn se_07_a_piece_of_a_document_keeps_its_memory() {
        let holder = Holder::new("piece", "dag");
        let mut gathering = holder.gather(100 * MIB);
        gathering.expect(100 * MIB).expect("memory");
        gathering.push(&[7; 100]).expect("memory");
        let bytes = gathering.end();
        assert!(holder.room(WHOLE.share() - 2 * MIB).is_ok(), "what was expected and did not come is given back");
        let room = holder.room(100 * MIB).expect("memory");
        let last = room.keep(vec![0; 100 * MIB]).split_off(100 * MIB - 1);
        assert_eq!(holder.room(60 * MIB).err(), Some(NotHeld::Busy));
        drop((last, bytes));
        assert!(holder.room(WHOLE.share() - MIB).is_ok());
        assert_eq!(holder.gather(usize::MAX).expect(WHOLE.share() + MIB), Err(NotHeld::TooLarge));
    }
}
