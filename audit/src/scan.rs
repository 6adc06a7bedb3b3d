//! Reads a file piece by piece.

use std::io::Read;

/// Read at once.
const CHUNK: usize = 1 << 20;

/// Shows a file piece by piece: `step` sees at least `least` bytes, fewer only at the end, and says how many it is done
/// with; who is done with more than there is wants no more.
///
/// # Errors
/// The file cannot be read.
pub fn scan(mut file: impl Read, least: usize, mut step: impl FnMut(&[u8]) -> usize) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let more = file.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
        let mut at = 0_usize;
        while at < buffer.len() && (more == 0 || buffer.len() - at >= least) {
            at = at.saturating_add(step(&buffer[at..]).max(1));
        }
        if more == 0 || at > buffer.len() {
            return Ok(());
        }
        buffer.drain(..at);
    }
}
