//! Look-up tables of DICOM: a descriptor of three numbers and the entries (PS3.3 C.11.1.1.1, C.11.2.1.1, C.7.6.3.1.5).

use dicom_core::{Tag, VR};
use dicom_object::InMemDicomObject;

use super::NotDrawn;

/// A table from values to entries; values outside it get its first or last entry.
pub(super) struct LookUpTable {
    first: i32,
    entries: Vec<u16>,
    /// Bits of an entry.
    bits: u32,
}

impl LookUpTable {
    /// Reads a table. `signed`: whether the values that it maps may be negative, for writers that name the wrong VR.
    pub(super) fn read(holder: &InMemDicomObject, descriptor: Tag, data: Tag, signed: bool) -> Result<Self, NotDrawn> {
        let wrong = NotDrawn::LookUpTable;
        let described = holder.element(descriptor).map_err(|_| wrong)?;
        let numbers = described.to_multi_int::<i32>().map_err(|_| wrong)?;
        let [count, first, bits] = numbers[..] else { return Err(wrong) };
        // As unsigned 16-bit numbers; 65,536 entries are written as 0.
        let count = match count & 0xFFFF {
            0 => 65_536,
            count => count as usize,
        };
        let first = match described.vr() {
            VR::SS => first,
            _ if signed => i32::from((first & 0xFFFF) as u16 as i16),
            _ => first & 0xFFFF,
        };
        let bits = u32::try_from(bits).ok().filter(|bits| (8..=16).contains(bits)).ok_or(wrong)?;
        let bytes = holder.element(data).map_err(|_| wrong)?.to_bytes().map_err(|_| wrong)?;
        let entries: Vec<u16> = if bytes.len() >= 2 * count {
            bytes.chunks_exact(2).take(count).map(|two| u16::from_le_bytes([two[0], two[1]])).collect()
        } else if bits == 8 && bytes.len() >= count {
            bytes.iter().take(count).map(|byte| u16::from(*byte)).collect()
        } else {
            return Err(wrong);
        };
        Ok(Self { first, entries, bits })
    }

    /// The entry of a value.
    pub(super) fn entry(&self, value: i32) -> u16 {
        let at = value.saturating_sub(self.first).max(0) as usize;
        self.entries[at.min(self.entries.len() - 1)]
    }

    /// The entry of a value as a share of the largest that its bits can say.
    pub(super) fn share(&self, value: f64) -> f64 {
        f64::from(self.entry(value.round() as i32)) / f64::from((1u32 << self.bits) - 1)
    }

    /// The entry in eight bits.
    pub(super) fn byte(&self, value: i32) -> u8 {
        (self.entry(value) >> (self.bits - 8)).min(255) as u8
    }
}
