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
    log::debug!("command line {:?}", info.command_line);
    for module in &info.modules {
        log::debug!("module {:?} of {} bytes", module.name, module.bytes.len());
    }
    if let Some(config) = hal::fw_cfg::read("opt/ferrite/config") {
        log::debug!("configuration of {} bytes by fw_cfg", config.len());
    }
    log::debug!("wall time {:?}", hal::clock::wall_nanos());
    if let Some(report) = hal::crash::take_previous() {
        log::warn!("the last run ended in a crash: {report}");
    }
    if let Some(kind) = hal::watchdog::start(10) {
        log::info!("watchdog: {kind:?}");
    }
    boot::test_fault(info);
    loop {
        hal::watchdog::kick();
        if hal::power::power_button_pressed() {
            hal::power::shutdown();
        }
        hal::irq::wait_for_interrupt(Some(hal::clock::now_nanos() + 250_000_000));
    }
}
