//! A volume that goes to and fro between two appliances, which lose power at some moment of it.
//!
//! At every moment at most one of them takes writes, asked and tried; what was acknowledged as durable is there at the end, and what was
//! begun comes to its end by itself.

mod ledger;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ferrite::Failure;
use qemu::Appliance;
use serde_json::{Value, json};

use crate::Station;
use crate::nbd::{EIO, FUA, Nbd, NbdError};
use ledger::{Ledger, SIZE};

const DRIVE_BYTES: u64 = 256 << 20;
const VOLUME: &str = "/v1/volumes/db";
/// Bytes in a second in the background: all of it takes a second.
const RATE: u64 = SIZE;
/// How long all may take to be well again.
const LIMIT: Duration = Duration::from_secs(90);
/// Longer than anybody waits for a source.
const LOSS_LIMIT: Duration = Duration::from_secs(60);
/// Less than anybody waits for a source.
const OTHER_LIMIT: Duration = Duration::from_secs(10);
/// How long a state is looked for that may have passed.
const SEEN_LIMIT: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(50);
const SHORT_INTERVAL: Duration = Duration::from_millis(2);

/// What is asked for when the clock begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// That the volume goes, at once.
    Offer,
    /// That it is handed over, for which the other one is prepared.
    HandOver,
    /// Nothing: its blocks follow.
    Following,
    /// That it comes back.
    TakeBack,
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after that was asked for.
    After(Duration),
    /// As soon as the one who gives (false) or gets (true) says this state.
    Seen(bool, &'static str),
}

/// A power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What is under way.
    pub stage: Stage,
    /// When.
    pub moment: Moment,
    /// Who loses power: whoever had the volume, and whoever gets it.
    pub victims: [bool; 2],
}

impl Cut {
    /// One of many that are spread over everything there is.
    #[must_use]
    pub fn nth(number: u32) -> Self {
        const STATES: [(bool, &str); 4] = [
            (false, "offered"),
            (true, "prepared"),
            (false, "given"),
            (true, "owned"),
        ];
        let victims = [[true, false], [false, true], [true, true]][(number / 4 % 3) as usize];
        let step = number / 12;
        let (stage, millis) = match number % 4 {
            0 => (Stage::Offer, step * 4),
            1 => (Stage::HandOver, step * 3),
            2 => (Stage::Following, step * 130),
            _ => (Stage::TakeBack, step * 3),
        };
        let (is_getter, state) = STATES[(step / 2 % 4) as usize];
        let moment = match (stage, step % 2) {
            (Stage::Offer, 1) => Moment::Seen(is_getter, state),
            _ => Moment::After(Duration::from_millis(millis.into())),
        };
        Self {
            stage,
            moment,
            victims,
        }
    }
}

/// The two appliances and the volume.
#[derive(Debug)]
pub struct Journey {
    stations: [Station; 2],
    running: [Option<Appliance>; 2],
    owner: usize,
    ledger: Ledger,
    keeps: bool,
}

impl Journey {
    /// Starts both, and makes the volume at the first.
    ///
    /// # Errors
    /// Whatever fails.
    pub fn begin(name: &str) -> Result<Self> {
        let station = |end: &str| Station::for_peers(&format!("{name}-{end}"), DRIVE_BYTES);
        let stations = [station("a")?, station("b")?];
        let running = [Some(stations[0].start()?), Some(stations[1].start()?)];
        stations[0].pair_with(&stations[1])?;
        let wanted = json!({"name": "db", "size": SIZE});
        stations[0].api().post("/v1/volumes", &wanted)?;
        let mut journey = Self {
            stations,
            running,
            owner: 0,
            ledger: Ledger::default(),
            keeps: false,
        };
        journey.ledger.fill(journey.stations[0].options.nbd)?;
        Ok(journey)
    }

    /// Sends it on its way, and cuts the power once; all is well when this returns.
    ///
    /// # Errors
    /// What is not.
    pub fn survive(&mut self, cut: Cut) -> Result<()> {
        let done = self.try_survive(cut);
        done.with_context(|| {
            let seen = [0, 1].map(|at| self.shown(at).unwrap_or_default().to_string());
            let [a, b] = self.consoles();
            format!("{cut:?}\n{seen:#?}\n--- a\n{a}\n--- b\n{b}")
        })
    }

    fn try_survive(&mut self, cut: Cut) -> Result<()> {
        let (from, to) = (self.owner, 1 - self.owner);
        self.keeps = !self.keeps;
        let offer = json!({
            "to": self.name(to),
            "hand_over": if cut.stage == Stage::HandOver { "wait" } else { "now" },
            "after": if self.keeps { "keep" } else { "free" },
            "rate": RATE,
        });
        if cut.stage != Stage::Offer {
            self.ask(from, "migrate", &offer)?;
        }
        match cut.stage {
            Stage::Offer => {}
            Stage::HandOver => {
                self.wait_for(from, |volume| volume["move"]["confirmed"] == true)?;
            }
            Stage::Following | Stage::TakeBack => self.wait_for(to, is_owner)?,
        }
        let (ask, body, end) = match cut.stage {
            Stage::Offer => (Some("migrate"), offer, to),
            Stage::HandOver => (Some("hand-over"), json!({}), to),
            Stage::Following => (None, json!({}), to),
            Stage::TakeBack => (Some("take-back"), json!({}), from),
        };
        let is_there = matches!(cut.stage, Stage::Following | Stage::TakeBack);
        let writes_at = if is_there { to } else { from };
        let is_done = self.cut_power(cut, (from, to), writes_at, ask.map(|ask| (ask, &body)))?;
        // Who was not heard asks again.
        let again = ask.filter(|_| !is_done).map(|ask| (from, ask, &body));
        self.settle(end, again)?;
        self.owner = end;
        self.ledger.verify(self.stations[end].options.nbd)
    }

    /// Somebody writes, somebody asks, and the power goes and comes back. Returns whether what was asked for was granted.
    fn cut_power(
        &mut self,
        cut: Cut,
        (from, to): (usize, usize),
        writes_at: usize,
        ask: Option<(&str, &Value)>,
    ) -> Result<bool> {
        let (stations, running, ledger) = (&self.stations, &mut self.running, &mut self.ledger);
        let has_ended = &AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = stations[writes_at].options.nbd;
            let writer = scope.spawn(move || ledger.write_on(writer, has_ended));
            let api = stations[from].api();
            let asked = scope.spawn(move || {
                let (what, body) = ask?;
                Some(api.post(&format!("{VOLUME}/{what}"), body))
            });
            match cut.moment {
                Moment::After(delay) => thread::sleep(delay),
                Moment::Seen(is_getter, state) => {
                    let deadline = Instant::now() + SEEN_LIMIT;
                    let api = stations[if is_getter { to } else { from }].api();
                    let is_so = || {
                        let volume = api.get(VOLUME);
                        volume.is_ok_and(|volume| volume["move"]["state"] == state)
                    };
                    while !is_so() && Instant::now() < deadline {
                        thread::sleep(SHORT_INTERVAL);
                    }
                }
            }
            let mut restarted = Ok(());
            let victims = [from, to].into_iter().zip(cut.victims);
            let victims: Vec<usize> = { victims.filter(|(_, is_victim)| *is_victim) }
                .map(|(at, _)| at)
                .collect();
            for at in &victims {
                restarted = restarted.and(
                    running[*at]
                        .take()
                        .map_or(Ok(()), |appliance| stations[*at].cut_power(appliance)),
                );
            }
            for at in victims {
                match stations[at].start() {
                    Ok(appliance) => running[at] = Some(appliance),
                    Err(error) => restarted = Err(error),
                }
            }
            let asked = asked.join().ok().flatten();
            has_ended.store(true, Ordering::Relaxed);
            writer.join().ok().context("the writer panicked")??;
            restarted?;
            match asked {
                None | Some(Ok(_)) => Ok(true),
                // It was cut off, or says that it may be done later.
                Some(Err(Failure::Unreachable(_) | Failure::Refused { status: 504, .. })) => {
                    Ok(false)
                }
                Some(Err(error)) => Err(error.into()),
            }
        })
    }

    /// Waits until all of it is at `end` and nobody has anything to do any more. Until then, never are there two owners.
    fn settle(&mut self, end: usize, again: Option<(usize, &str, &Value)>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut has_come = false;
        loop {
            // First whoever gets it: should that one be the owner, the other one is not any more.
            let asked = [end, 1 - end].map(|at| self.shown(at));
            let [there, here] = asked;
            let (there, here) = (there?, here?);
            ensure!(
                !(is_owner(&there) && is_owner(&here)),
                "two owners: {there}, {here}"
            );
            let is_there = is_owner(&there);
            let is_done = is_there && is_idle(&there) && is_idle(&here);
            // Whoever writes all the time is made room for: the rest would hardly arrive.
            if is_done || !has_come {
                let mut takes = [false; 2];
                for (takes, at) in takes.iter_mut().zip([end, 1 - end]) {
                    *takes = self.ledger.try_write(self.stations[at].options.nbd)?;
                }
                ensure!(takes != [true; 2], "both take writes: {there}, {here}");
                has_come = is_there && takes[0];
            }
            if let Some((at, what, body)) = again
                && !is_there
            {
                // Refused when it was heard before.
                let _ = self.ask(at, what, body);
            }
            if is_done && has_come {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no end: {there}, {here}");
            thread::sleep(INTERVAL);
        }
    }

    /// Ends both; the one without the volume first, after which all of it is still there.
    ///
    /// # Errors
    /// What is missing, and what is wrong with their pools.
    pub fn end(mut self) -> Result<()> {
        let (owner, other) = (self.owner, 1 - self.owner);
        drop(self.running[other].take());
        self.ledger.verify(self.stations[owner].options.nbd)?;
        if let Some(appliance) = self.running[owner].take() {
            self.stations[owner].power_down(appliance)?;
        }
        self.stations.iter().try_for_each(Station::check)
    }

    fn name(&self, at: usize) -> Value {
        self.stations[at].options.config["node"]["name"]
            .as_str()
            .into()
    }

    fn ask(&self, at: usize, what: &str, body: &Value) -> Result<Value> {
        let api = self.stations[at].api();
        Ok(api.post(&format!("{VOLUME}/{what}"), body)?)
    }

    /// What is said of the volume; nothing where it is not.
    fn shown(&self, at: usize) -> Result<Value> {
        match self.stations[at].api().get(VOLUME) {
            Ok(volume) => Ok(volume),
            Err(error) if error.to_string().contains("no such volume") => Ok(Value::Null),
            Err(error) => Err(error.into()),
        }
    }

    fn wait_for(&self, at: usize, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if is_so(&self.shown(at)?) {
                return Ok(());
            }
            thread::sleep(INTERVAL);
        }
        bail!("it does not get there")
    }

    fn consoles(&self) -> [String; 2] {
        [0, 1].map(|at| {
            let running = self.running[at].as_ref();
            running.map_or_else(String::new, |appliance| appliance.running.evidence())
        })
    }
}

/// A source that goes for good before all has arrived takes with it what had not: that is an error, never zeros. All else goes on.
///
/// # Errors
/// What does not.
pub fn survives_the_loss_of_its_source(name: &str) -> Result<()> {
    let mut journey = Journey::begin(name)?;
    let there = &journey.stations[1];
    let other = json!({"name": "other", "size": SIZE});
    there.api().post("/v1/volumes", &other)?;
    // So slow that next to nothing arrives.
    let offer = json!({"to": journey.name(1), "rate": 4096});
    journey.ask(0, "migrate", &offer)?;
    journey.wait_for(1, is_owner)?;
    drop(journey.running[0].take());
    let server = journey.stations[1].options.nbd;
    let mut nbd = Nbd::connect(server, "db", LOSS_LIMIT)?;
    thread::scope(|scope| {
        let late = scope.spawn(|| {
            let mut bytes = vec![0; 4096];
            let begun = Instant::now();
            (nbd.read(SIZE - 4096, &mut bytes), begun.elapsed())
        });
        let mut rounds = 0;
        while !late.is_finished() {
            let mut nbd = Nbd::connect(server, "other", OTHER_LIMIT)?;
            let mut bytes = vec![0; 4096];
            nbd.write(0, &[7; 4096], FUA)?;
            nbd.read(0, &mut bytes)?;
            ensure!(bytes == [7; 4096], "the other volume differs");
            // What is written here is here.
            ensure!(journey.ledger.try_write(server)?, "it takes no writes");
            rounds += 1;
            thread::sleep(INTERVAL);
        }
        let (read, time) = late.join().ok().context("the reader panicked")?;
        ensure!(
            matches!(read, Err(NbdError::Refused(EIO))),
            "not an I/O error, but {read:?}"
        );
        ensure!(rounds > 0, "the other volume was not tried");
        println!("EIO of what was lost after {:.1} s", time.as_secs_f64());
        Ok(())
    })
}

/// Nothing is under way.
fn is_idle(volume: &Value) -> bool {
    volume["hydration"].is_null() && volume["move"]["job"].is_null()
}

fn is_owner(volume: &Value) -> bool {
    match volume["move"]["state"].as_str() {
        Some(state) => matches!(state, "owned" | "offered"),
        // It never moved; or it is being made for one that is offered, and nobody says so yet.
        None => volume.is_object() && volume["hydration"].is_null(),
    }
}
