//! One file per listening port.
