//! The machine as a library: QEMU command lines, QMP, serial log.
