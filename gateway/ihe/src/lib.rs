//! IHE content.
