//! The appliance as its API shows it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use appliance::log_modules::LOG_MODULES;
use appliance::plan::Verdict;
use config::{Config, ConfigOption, OPTIONS};
use net::NetCounters;
use serve::api::{
    DriveInfo, DriveState, FormatError, LogLevels, MemoryInfo, Node, NodeInfo, Pending, SettingInfo,
};
use store::Store;
use world::{BLOCK_SIZE, Disk};

use crate::VERSION;
use crate::drive::Drive;
use crate::machine::Broken;
use crate::power::{End, Power};
use crate::service::Stack;

/// What the API asks, and where the answers are.
#[derive(Clone)]
pub struct Appliance {
    /// What it was told.
    pub config: Rc<Config>,
    /// The port at which clients reach NBD.
    pub nbd_port: u16,
    /// Drives, and what they are for the pool.
    pub drives: Rc<RefCell<Vec<(Drive, Verdict)>>>,
    /// What was found but cannot be used.
    pub broken: Vec<Broken>,
    /// The pool.
    pub store: Option<Store<Drive>>,
    /// The network.
    pub stack: Stack,
    /// The report of the crash that ended the run before this one.
    pub crash: Option<Rc<str>>,
    /// The way out.
    pub power: Rc<Power>,
}

impl Node for Appliance {
    fn info(&self) -> NodeInfo {
        let heap = hal::heap::stats();
        NodeInfo {
            name: self.config.node_name.clone(),
            version: VERSION.into(),
            uptime_ms: hal::clock::now_nanos() / 1_000_000,
            nbd_port: self.nbd_port,
            memory: MemoryInfo {
                total: heap.total_bytes as u64,
                free: (heap.free_frames * hal::heap::FRAME_BYTES) as u64,
            },
            crash: self.crash.as_deref().map(Into::into),
        }
    }

    fn drives(&self) -> Vec<DriveInfo> {
        let drives = self.drives.borrow();
        let working = drives
            .iter()
            .map(|(drive, verdict)| self.describe(drive, verdict));
        working
            .chain(self.broken.iter().map(describe_broken))
            .collect()
    }

    fn network(&self) -> NetCounters {
        self.stack.counters()
    }

    fn configuration(&self) -> Vec<SettingInfo> {
        let setting = |option: &'static ConfigOption| SettingInfo {
            key: option.key,
            value: option.value(&self.config),
            default: option.default,
            about: option.about,
        };
        OPTIONS.iter().map(setting).collect()
    }

    fn log_tail(&self, lines: usize) -> Vec<String> {
        hal::log::tail(lines)
    }

    fn log_levels(&self) -> LogLevels {
        let (level, modules) = hal::log::levels();
        LogLevels { level, modules }
    }

    fn log_modules(&self) -> &'static [&'static str] {
        &LOG_MODULES
    }

    fn set_log_levels(&self, levels: LogLevels) {
        hal::log::set_levels(levels.level, levels.modules);
    }

    fn format_drive(&self, id: &str, confirm: &str) -> Pending<Result<DriveInfo, FormatError>> {
        let drives = self.drives.clone();
        let known = drives
            .borrow()
            .iter()
            .position(|(drive, _)| drive.info().id == id);
        let (confirm, this) = (confirm.to_string(), self.clone());
        Box::pin(async move {
            let index = known.ok_or(FormatError::NoDrive)?;
            let (drive, verdict) = drives.borrow()[index].clone();
            if verdict.state == DriveState::Serving {
                return Err(FormatError::Serving);
            }
            if drive.info().serial != confirm {
                return Err(FormatError::WrongSerial);
            }
            Store::erase(&drive).await.map_err(|error| {
                log::error!("{id} does not become blank: {error}", id = drive.info().id);
                FormatError::Failed
            })?;
            log::warn!(
                "{} is blank now: what it held was given up",
                drive.info().id
            );
            let verdict = Verdict {
                state: DriveState::Blank,
                detail: Some("blank; the next start makes a pool of it if there is none".into()),
            };
            drives.borrow_mut()[index].1 = verdict.clone();
            Ok(this.describe(&drive, &verdict))
        })
    }

    fn shutdown(&self) {
        self.power.ask(End::Off);
    }

    fn reboot(&self) {
        self.power.ask(End::Reboot);
    }
}

impl Appliance {
    fn describe(&self, drive: &Drive, verdict: &Verdict) -> DriveInfo {
        let info = drive.info();
        let size = drive.geometry().blocks * BLOCK_SIZE as u64;
        let health = drive.health();
        let is_needed = verdict.state == DriveState::Serving;
        // What is wrong with a drive that holds something else is nobody's concern, unless it does not answer.
        let is_told = |state: &DriveState| is_needed || *state == DriveState::Failed;
        let (state, detail) = match health.trouble().filter(|(state, _)| is_told(state)) {
            Some((state, why)) => (state, Some(why)),
            None => (verdict.state, verdict.detail.clone()),
        };
        DriveInfo {
            id: info.id,
            model: info.model,
            serial: info.serial,
            slot: info.slot,
            state,
            detail,
            size,
            used: self.used(verdict, size),
            errors: health.errors(),
            meters: health.meters().clone(),
        }
    }

    /// A drive's part of what the pool uses. The store fills its drives evenly and counts them together.
    fn used(&self, verdict: &Verdict, size: u64) -> u64 {
        let (Some(store), DriveState::Serving) = (&self.store, verdict.state) else {
            return 0;
        };
        let all: u64 = store.with_disks(|disks| {
            let sizes = disks.iter().map(|disk| disk.geometry().blocks);
            sizes.sum::<u64>() * BLOCK_SIZE as u64
        });
        let used = u128::from(store.pool().used_bytes) * u128::from(size) / u128::from(all.max(1));
        u64::try_from(used).unwrap_or(size)
    }
}

fn describe_broken(broken: &Broken) -> DriveInfo {
    DriveInfo {
        id: broken.id.clone(),
        model: String::new(),
        serial: String::new(),
        slot: broken.slot.clone(),
        state: DriveState::Failed,
        detail: Some(broken.why.clone()),
        size: 0,
        used: 0,
        errors: 0,
        meters: Rc::default(),
    }
}
