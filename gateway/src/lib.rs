//! The NCP gateway.
