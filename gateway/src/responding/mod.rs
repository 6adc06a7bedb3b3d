//! NCP-A: Responding Gateway and Responding Imaging Gateway. Read `pipeline.rs` first.

mod deliver;
mod forms;
pub mod iti38;
pub mod iti39;
pub mod iti55;
pub mod orcd;
pub mod pipeline;
pub mod pivot;
pub mod rad75;
pub mod rate;
pub mod registry;
mod repeatable;
pub mod replay;
pub mod security;
pub mod widen;
