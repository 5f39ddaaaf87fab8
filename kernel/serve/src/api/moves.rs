//! Volumes that move from one appliance to another.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};

use migration::{After, MigrateOptions, Move, MoveError, Moves};
use serde::Serialize;
use volume::{OriginAddress, VolumeId, VolumeInfo};
use world::Disk;

use super::Backend;
use super::forms::{
    AFTER, AFTER_FREE, AFTER_SNAPSHOT, CONFIRM_VOLUME, DESTINATION, HAND_OVER, RATE, WAIT,
    WITH_SNAPSHOTS,
};
use super::jobs;
use super::problem::Problem;
use super::refusal::About;
use super::resources::{catalog, no_pool, uuid};
use super::router::{Call, Handled};
use super::volumes;

/// Where a volume is on its way.
#[derive(Serialize)]
pub(super) struct MoveResource {
    state: &'static str,
    epoch: u64,
    /// The same on all appliances.
    id: String,
    peer: Option<String>,
    confirmed: bool,
    job: Option<u64>,
    trouble: Option<String>,
}

impl MoveResource {
    pub fn new<D: Disk + 'static>(backend: &Backend<D>, volume: VolumeId) -> Option<Self> {
        let moved = backend.moves.as_ref()?.get(volume)?;
        let mut under_way = backend
            .upkeep
            .iter()
            .flat_map(|upkeep| upkeep.jobs.migrations());
        let is_it = |job: &upkeep::Ticket<D>| job.migration().is_some_and(|of| of.id == moved.id);
        Some(Self {
            state: moved.state,
            epoch: moved.epoch,
            id: uuid(moved.id),
            peer: moved.peer,
            confirmed: moved.is_confirmed,
            job: under_way.find(is_it).map(|job| job.id()),
            trouble: moved.trouble,
        })
    }
}

/// Where the blocks of an adopted volume come from, as people say it.
pub(super) fn address<D: Disk + 'static>(backend: &Backend<D>, address: &OriginAddress) -> String {
    let source = match address {
        OriginAddress::Moved { id, .. } => {
            backend.moves.as_ref().and_then(|moves| moves.source(*id))
        }
        _ => None,
    };
    source.map_or_else(|| address.to_string(), |peer| format!("ferrite://{peer}"))
}

pub(super) async fn migrate<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let moves = moves(&backend)?;
    let asked = Asked::new(&backend, &call)?;
    let to = call.text(&DESTINATION).unwrap_or_default();
    let options = MigrateOptions {
        to: to.into(),
        at_once: call.text(&HAND_OVER) != Some(WAIT),
        after: match call.text(&AFTER) {
            Some(AFTER_FREE) => After::Free,
            Some(AFTER_SNAPSHOT) => After::Snapshot,
            _ => After::Keep,
        },
        with_snapshots: call.body.get(WITH_SNAPSHOTS.name) == Some(&true.into()),
        rate: call.number(&RATE).unwrap_or(0),
    };
    let job = moves.migrate(asked.name, options).await;
    let job = job.map_err(|error| match error {
        MoveError::NoPeer => {
            let detail = format!(
                "there is no such peer: `{to}`; pair the two appliances first, or see /v1/peers for those that are"
            );
            Problem::of_field(404, DESTINATION.name, detail)
        }
        error => asked.refuse(error),
    })?;
    jobs::started(&backend, job)
}

pub(super) async fn hand_over<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let asked = Asked::new(&backend, &call)?;
    let name = asked.name;
    let done = moves(&backend)?.hand_over(name).await;
    asked.answer(done, || {
        format!(
            "`{name}` is given and takes nothing more here, but the other appliance does not answer; it is told as soon as it \
             can be reached. To have the volume here again instead, take it back"
        )
    })
}

pub(super) async fn take_back<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let asked = Asked::new(&backend, &call)?;
    let name = asked.name;
    let done = moves(&backend)?.take_back(name).await;
    asked.answer(done, || {
        format!(
            "the other appliance has not given `{name}` back yet; it is asked as soon as it can be reached. Should it be lost \
             for good: what stayed here can be taken over, without what was written there"
        )
    })
}

pub(super) async fn take_over<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let asked = Asked::new(&backend, &call)?;
    if call.text(&CONFIRM_VOLUME) != Some(asked.name) {
        let detail =
            "the name of the volume is needed again: what was written to it elsewhere is lost";
        return Err(Problem::of_field(409, CONFIRM_VOLUME.name, detail));
    }
    match moves(&backend)?.take_over(asked.name).await {
        Err(MoveError::NotGiven) => {
            let detail = format!("`{}` was not given to another appliance", asked.name);
            Err(Problem::new(409, detail))
        }
        done => asked.answer(done, String::new),
    }
}

fn moves<D>(backend: &Backend<D>) -> Result<&Moves<D>, Problem> {
    backend.moves.as_ref().ok_or_else(no_pool)
}

/// The volume that a request is about.
struct Asked<'a, D> {
    backend: &'a Backend<D>,
    name: &'a str,
    info: VolumeInfo,
}

impl<'a, D: Disk + 'static> Asked<'a, D> {
    fn new(backend: &'a Backend<D>, call: &'a Call) -> Result<Self, Problem> {
        let volumes = catalog(backend)?;
        let name = &call.captures[0];
        let info = volumes.get(name);
        let info = info.map_err(|error| About::volume(name).refuse(volumes, error))?;
        Ok(Self {
            backend,
            name,
            info,
        })
    }

    /// The volume as it is now; `unconfirmed` says what is the matter when the other appliance does not answer.
    fn answer(self, done: Result<Move, MoveError>, unconfirmed: impl Fn() -> String) -> Handled {
        match done {
            Ok(_) => volumes::answer(self.backend, self.name, self.info),
            Err(MoveError::Unconfirmed) => Err(Problem::new(504, unconfirmed())),
            Err(error) => Err(self.refuse(error)),
        }
    }

    fn refuse(&self, error: MoveError) -> Problem {
        let name = self.name;
        let detail = match &error {
            MoveError::NotOwner => self.whose(),
            MoveError::NotOffered => {
                format!("`{name}` is not offered to another appliance; migrate it first")
            }
            MoveError::NotGiven => {
                format!("`{name}` is neither offered nor given to another appliance")
            }
            error => error.to_string(),
        };
        match error {
            MoveError::Volume(error) => match catalog(self.backend) {
                Ok(volumes) => About::volume(name).refuse(volumes, error),
                Err(problem) => problem,
            },
            MoveError::NotPrepared => Problem::new(409, detail).with_header("Retry-After", 1),
            MoveError::NotNow => Problem::new(503, detail).with_header("Retry-After", 1),
            MoveError::Unconfirmed => Problem::new(504, detail),
            _ => Problem::new(409, detail),
        }
    }

    /// Why it is not for this appliance to move it.
    fn whose(&self) -> String {
        let name = self.name;
        let moved = self
            .backend
            .moves
            .as_ref()
            .and_then(|moves| moves.get(self.info.id));
        let (state, peer) = moved.map_or(("", None), |moved| (moved.state, moved.peer));
        let peer = peer.map_or_else(|| "another appliance".into(), |peer| format!("`{peer}`"));
        match state {
            "offered" => format!("`{name}` is being moved to {peer} already"),
            "prepared" => {
                format!("`{name}` is still with {peer}, from where it is being moved to here")
            }
            "given" => format!(
                "`{name}` was given to {peer}: migrate it from there, or take it back first"
            ),
            _ => format!("`{name}` is what stayed of a volume that is elsewhere"),
        }
    }
}
