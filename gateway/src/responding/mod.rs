//! NCP-A: Responding Gateway and Responding Imaging Gateway. Read `pipeline.rs` first.
