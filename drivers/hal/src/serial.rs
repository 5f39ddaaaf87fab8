//! The serial console: a 16550 at COM1, polled.
//!
//! Nothing here waits for ever: a console that does not drain (no reader, flow control) costs [`SPINS_MAX`] polls once
//! and is then written without waiting until it drains again.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::port;

const COM1: u16 = 0x3f8;

/// Registers, as offsets from the base port (16550D data sheet, table 2).
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;

const STATUS_RECEIVED: u8 = 1;
const STATUS_TRANSMIT_EMPTY: u8 = 1 << 5;

/// Bytes of the transmit FIFO: once it is empty that many may be written without asking again.
const FIFO_BYTES: usize = 16;
/// Polls before a full transmitter is taken for stuck; about 100 ms on a port that takes 1 µs per access.
const SPINS_MAX: u32 = 100_000;

static PRESENT: AtomicBool = AtomicBool::new(false);
static STUCK: AtomicBool = AtomicBool::new(false);

/// Sets the port to 115200 8N1 without interrupts. Where there is no port, output goes nowhere.
pub fn init() {
    port::write8(COM1 + SCRATCH, 0x5a);
    if port::read8(COM1 + SCRATCH) != 0x5a {
        return;
    }
    port::write8(COM1 + INTERRUPT_ENABLE, 0);
    port::write8(COM1 + LINE_CONTROL, 0x80);
    port::write8(COM1 + DATA, 1);
    port::write8(COM1 + INTERRUPT_ENABLE, 0);
    port::write8(COM1 + LINE_CONTROL, 3);
    port::write8(COM1 + FIFO_CONTROL, 0xc7);
    port::write8(COM1 + MODEM_CONTROL, 3);
    PRESENT.store(true, Ordering::Relaxed);
}

/// Writes `bytes`, each `\n` as `\r\n`. Bytes are lost when the port is stuck.
pub fn write(bytes: &[u8]) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    let mut room = 0;
    for &byte in bytes {
        if byte == b'\n' {
            room = send(b'\r', room);
        }
        room = send(byte, room);
    }
}

/// Takes a received byte, if there is one.
#[must_use]
pub fn read() -> Option<u8> {
    let received =
        PRESENT.load(Ordering::Relaxed) && port::read8(COM1 + LINE_STATUS) & STATUS_RECEIVED != 0;
    received.then(|| port::read8(COM1 + DATA))
}

/// Sends one byte when `room` says so or the transmitter is empty; returns the room that is left in the FIFO.
fn send(byte: u8, room: usize) -> usize {
    let room = if room == 0 { wait_for_room() } else { room };
    if room == 0 {
        return 0;
    }
    port::write8(COM1 + DATA, byte);
    room - 1
}

fn wait_for_room() -> usize {
    let spins = if STUCK.load(Ordering::Relaxed) {
        1
    } else {
        SPINS_MAX
    };
    for _ in 0..spins {
        if port::read8(COM1 + LINE_STATUS) & STATUS_TRANSMIT_EMPTY != 0 {
            STUCK.store(false, Ordering::Relaxed);
            return FIFO_BYTES;
        }
        core::hint::spin_loop();
    }
    STUCK.store(true, Ordering::Relaxed);
    0
}

/// The console as a place to `write!` to.
#[derive(Clone, Copy, Debug)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}
