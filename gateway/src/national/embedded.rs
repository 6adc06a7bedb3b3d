//! Written with the connectors.
