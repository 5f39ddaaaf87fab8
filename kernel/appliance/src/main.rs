//! The image: wires the rooms together.
//!
//! | file | what |
//! | --- | --- |
//! | `settings` | what the appliance is told |
//! | `machine`, `drive`, `clock`, `entropy` | the machine as a world |
//! | `pool`, [`appliance::plan`] | which pool is served |
//! | `service`, `node` | what is served to whom |
//! | `idle` | the loop |
//! | `power` | watchdog, power button, the end |
//!
//! A wrong configuration is shown on the console, and nothing is served: a half-configured appliance would be reached by
//! the wrong people, or by nobody who could tell what is wrong with it.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

mod clock;
mod drive;
mod entropy;
mod idle;
mod machine;
mod node;
mod pool;
mod power;
mod service;
mod settings;

use alloc::rc::Rc;

use appliance::memory::Shares;
use boot::BootInfo;
use config::Config;
use exec::Exec;
use net::NetConfig;

use crate::clock::{MachineClock, TurnClock};
use crate::entropy::Generator;
use crate::machine::Machine;
use crate::power::Power;
use crate::service::{Parts, Stack};

/// The version that is told to everybody.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

boot::entry!(main);

fn main(info: &'static BootInfo) -> ! {
    log::info!("ferrite {VERSION}, {} MiB of memory", info.heap_bytes >> 20);
    let crash = previous_crash();
    power::guard_start();
    let (config, net_config) = configure(info);
    let clock = Rc::new(TurnClock::default());
    clock.tick();
    let exec = Exec::new(clock.clone());
    let mut machine = Machine::find(&MachineClock, clock.clone());
    let shares = Shares::of(hal::heap::stats().free_frames * hal::heap::FRAME_BYTES);
    log::debug!("{shares:?}");

    let mut source = machine.take_entropy();
    let entropy = Generator::seeded(source.as_mut());
    exec.spawn(entropy.clone().stay_fresh(exec.clone(), source));
    let power = Rc::new(Power::default());
    exec.spawn(power.clone().watch(exec.clone()));
    exec.spawn(power.clone().end(exec.clone()));

    let link = machine.open_link(shares.frames);
    let stack = link.map(|link| Stack::new(link, net_config, exec.clone(), &*entropy));
    exec.spawn(service::start(Parts {
        config,
        shares,
        exec: exec.clone(),
        entropy,
        stack: stack.clone(),
        drives: machine.drives().to_vec(),
        broken: machine.broken().to_vec(),
        power: power.clone(),
        crash: crash.clone(),
    }));

    power::guard_run();
    if crash.is_none() {
        boot::test_fault(info);
    }
    let end = idle::run(&machine, &exec, stack.as_ref(), &power, &clock);
    hal::watchdog::stop();
    machine.shut_down(&MachineClock);
    end.carry_out()
}

/// What the run before this one left behind, if it crashed. It goes to the log line by line, as what crashed wrote it.
fn previous_crash() -> Option<Rc<str>> {
    let report = hal::crash::take_previous()?;
    log::error!("the last run ended in a crash:");
    for line in report.lines() {
        log::error!("crash: {line}");
    }
    Some(report.into())
}

/// Reads the configuration, or shows what is wrong with it for as long as the machine runs.
fn configure(info: &BootInfo) -> (Config, NetConfig) {
    let error = match settings::read(info) {
        Ok(config) => {
            hal::log::set_level(config.log_level);
            match service::net_config(&config) {
                Ok(net_config) => return (config, net_config),
                Err(error) => alloc::string::ToString::to_string(error),
            }
        }
        Err(error) => alloc::format!("{error}"),
    };
    log::error!("wrong configuration, {error}");
    log::error!("nothing is served until it is corrected; the power button turns the machine off");
    power::wait_for_button()
}
