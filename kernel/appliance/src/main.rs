//! The image: wires the rooms together.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

boot::entry!(main);

fn main(info: &'static boot::BootInfo) -> ! {
    log::info!(
        "{} MiB of memory, started after {} us",
        info.heap_bytes >> 20,
        hal::clock::now_nanos() / 1000
    );
    hal::power::init();
    boot::test_fault(info);
    loop {
        if hal::power::power_button_pressed() {
            hal::power::shutdown();
        }
        hal::irq::wait_for_interrupt(Some(hal::clock::now_nanos() + 250_000_000));
    }
}
