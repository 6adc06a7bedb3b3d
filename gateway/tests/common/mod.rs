//! What several test programs share.

pub(crate) mod terminology;
pub(crate) mod trail;
