//! What the targets do with any bytes: permissions are read whole or not at all, and what was read has an effect.

mod file;
mod page;
mod recipe;
mod world;

pub use file::consent_file;
pub use page::consent;
