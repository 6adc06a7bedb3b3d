//! Terminology service.
