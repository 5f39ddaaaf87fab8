//! Firmware hand-over to main.
