//! The watchdog, the power button, and how a run ends.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use access::Audit;
use exec::{Exec, Notify};
use store::Store;

use crate::drive::Drive;

/// How often the watchdog is kicked and the power button looked at.
const ROUND: Duration = Duration::from_millis(250);
/// When the counter's rate is measured again: late enough to be exact, before the reference clock wraps around.
const REFINE_AFTER: Duration = Duration::from_secs(2);
/// Time for the answer to whoever asked for the end.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long saving everything may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// The machine is restarted when nothing has run for this long …
const WATCHDOG_SECONDS: u32 = 10;
/// … and while devices are brought up, which may take that long with a controller that does not answer.
const WATCHDOG_START_SECONDS: u32 = 180;

/// What follows the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine is turned off.
    Off,
    /// The machine starts again.
    Reboot,
}

impl End {
    /// Makes it so.
    pub fn carry_out(self) -> ! {
        match self {
            Self::Off => hal::power::shutdown(),
            Self::Reboot => hal::power::reboot(),
        }
    }
}

/// Who wants the run to end, and whether everything is saved.
#[derive(Default)]
pub struct Power {
    wanted: Cell<Option<End>>,
    asked: Notify,
    reached: Cell<Option<End>>,
    /// What has to be saved first.
    store: RefCell<Option<Store<Drive>>>,
    /// What is written a moment later otherwise.
    audit: RefCell<Option<Audit<Drive>>>,
}

impl Power {
    /// Says what has to be saved at the end.
    pub fn will_close(&self, store: Store<Drive>) {
        *self.store.borrow_mut() = Some(store);
    }

    /// Says what else has to be, before that.
    pub fn will_save(&self, audit: Audit<Drive>) {
        *self.audit.borrow_mut() = Some(audit);
    }

    /// Asks for an orderly end.
    pub fn ask(&self, end: End) {
        if self.wanted.get().is_none() {
            log::info!(
                "{}",
                if end == End::Off {
                    "shutting down"
                } else {
                    "rebooting"
                }
            );
            self.wanted.set(Some(end));
            self.asked.notify();
        }
    }

    /// The end, once everything is saved.
    pub fn reached(&self) -> Option<End> {
        self.reached.get()
    }

    /// Kicks the watchdog and looks at the power button, for ever.
    pub async fn watch(self: Rc<Self>, exec: Exec) {
        let mut is_refined = false;
        loop {
            hal::watchdog::kick();
            if hal::power::power_button_pressed() {
                log::info!("the power button was pressed");
                self.ask(End::Off);
            }
            if !is_refined && hal::clock::now_nanos() >= REFINE_AFTER.as_nanos() as u64 {
                hal::clock::refine();
                is_refined = true;
            }
            exec.sleep(ROUND).await;
        }
    }

    /// Waits until somebody asks for the end, and saves everything.
    pub async fn end(self: Rc<Self>, exec: Exec) {
        let end = loop {
            if let Some(end) = self.wanted.get() {
                break end;
            }
            self.asked.wait().await;
        };
        exec.sleep(LAST_WORDS).await;
        let audit = self.audit.borrow().clone();
        if let Some(audit) = audit
            && !matches!(exec.timeout(CLOSE_LIMIT, audit.save()).await, Ok(Ok(())))
        {
            log::warn!("the last changes are not in the audit log");
        }
        let store = self.store.borrow().clone();
        if let Some(store) = store {
            match exec.timeout(CLOSE_LIMIT, store.close()).await {
                Ok(Ok(())) => log::info!("the pool is closed"),
                Ok(Err(error)) => log::error!("the pool was not closed cleanly: {error}"),
                Err(_) => {
                    log::error!("the pool takes too long to close; recovery will do the rest")
                }
            }
        }
        self.reached.set(Some(end));
    }
}

/// Starts the watchdog with time enough to bring devices up.
pub fn guard_start() {
    match hal::watchdog::start(WATCHDOG_START_SECONDS) {
        Some(kind) => log::info!("watchdog: {kind:?}"),
        None => log::info!("no watchdog"),
    }
}

/// Tightens the watchdog: from here on it is kicked every quarter of a second.
pub fn guard_run() {
    let _ = hal::watchdog::start(WATCHDOG_SECONDS);
}

/// Shows what is on the console, and does nothing else until the power button is pressed.
pub fn wait_for_button() -> ! {
    guard_run();
    loop {
        hal::watchdog::kick();
        if hal::power::power_button_pressed() {
            hal::power::shutdown();
        }
        let next = hal::clock::now_nanos() + ROUND.as_nanos() as u64;
        hal::irq::wait_for_interrupt(Some(next));
    }
}
