//! The catalog: which volumes there are, and what clients attach to. Snapshots are in [`snapshots`](crate::snapshots).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::IpAddr;

use exec::{Permit, Semaphore};
use store::{BaseId, PoolState, SnapshotInfo, Source, Store, VolumeId, VolumeInfo};
use world::{Disk, Pool};

use crate::adoption::{Adoption, AdoptionInfo, Reason};
use crate::attachment::{Attachment, Attachments, End};
use crate::name::split_name;
use crate::room::Room;
use crate::traffic::Traffic;
use crate::usage::Usages;
use crate::{
    Access, OriginError, Origins, Settings, Standing, Volume, VolumeError, check_name, check_size,
};

/// The volume that an empty name means, if it is there.
pub const DEMO: &str = "demo";

/// The volumes of a store; clones are the same catalog.
pub struct Volumes<D> {
    shared: Rc<Shared<D>>,
}

impl<D> Clone for Volumes<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<D> {
    store: Store<D>,
    attachments: Attachments,
    /// Of the volumes that have any.
    settings: RefCell<BTreeMap<VolumeId, Settings>>,
    /// Whoever changes settings holds it from reading them to having kept them.
    settings_turn: Semaphore,
    usages: Usages,
    room: Room,
    /// Where the blocks of adopted volumes come from, as long as they are not all here.
    adoptions: RefCell<BTreeMap<BaseId, Rc<Adoption>>>,
    /// The last of those that are complete.
    finished_adoptions: RefCell<Vec<AdoptionInfo>>,
    /// How origins are reached, and the pages that what arrives from there comes in.
    origins: RefCell<Option<(Rc<dyn Origins>, FetchPages)>>,
    /// Of the volumes that are not simply this appliance's.
    standings: RefCell<BTreeMap<VolumeId, Standing>>,
    /// Of the volumes that had clients.
    traffic: RefCell<BTreeMap<VolumeId, Rc<Traffic>>>,
}

/// Pages for what arrives of adopted volumes.
struct FetchPages {
    demand: Pool,
    background: Pool,
}

/// What can be attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// What is read.
    pub source: Source,
    /// The volume that it is, or is a snapshot of.
    pub volume: VolumeId,
    /// `VOLUME` or `VOLUME@SNAPSHOT`.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
}

impl From<VolumeInfo> for Export {
    fn from(info: VolumeInfo) -> Self {
        Self {
            source: info.id.into(),
            volume: info.id,
            name: info.name,
            size_bytes: info.size_bytes,
        }
    }
}

impl From<SnapshotInfo> for Export {
    fn from(info: SnapshotInfo) -> Self {
        Self {
            source: info.id.into(),
            volume: info.volume,
            name: info.name,
            size_bytes: info.size_bytes,
        }
    }
}

impl<D: Disk + 'static> Volumes<D> {
    /// The catalog of `store`. Make one and clone it: attachments are counted per catalog.
    #[must_use]
    pub fn new(store: Store<D>) -> Self {
        Self {
            shared: Rc::new(Shared {
                store,
                attachments: Attachments::default(),
                settings: RefCell::default(),
                settings_turn: Semaphore::new(1),
                usages: Usages::default(),
                room: Room::default(),
                adoptions: RefCell::default(),
                finished_adoptions: RefCell::default(),
                origins: RefCell::default(),
                standings: RefCell::default(),
                traffic: RefCell::default(),
            }),
        }
    }

    /// All volumes that users know, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<VolumeInfo> {
        let mut all = self.shared.store.volumes();
        all.retain(|info| self.standing(info.id) != Standing::Inner);
        all
    }

    /// The volume called `name`.
    ///
    /// # Errors
    /// [`VolumeError::NoVolume`].
    pub fn get(&self, name: &str) -> Result<VolumeInfo, VolumeError> {
        let found = self.shared.store.find(name);
        let known = found.filter(|info| self.standing(info.id) != Standing::Inner);
        known.ok_or(VolumeError::NoVolume)
    }

    /// What a client means by `name`: a volume, `VOLUME@SNAPSHOT`, or for an empty name `demo`, else the only volume.
    ///
    /// # Errors
    /// [`VolumeError::NoVolume`], [`VolumeError::NoSnapshot`], [`VolumeError::NoDefault`].
    pub fn resolve(&self, name: &str) -> Result<Export, VolumeError> {
        match split_name(name) {
            ("", None) => self.default_volume().map(Export::from),
            (volume, None) => self.get(volume).map(Export::from),
            (volume, Some(snapshot)) => {
                let info = self.snapshot(volume, snapshot)?;
                Ok(Export {
                    name: format!("{volume}@{snapshot}"),
                    ..info.into()
                })
            }
        }
    }

    fn default_volume(&self) -> Result<VolumeInfo, VolumeError> {
        if let Some(demo) = self.shared.store.find(DEMO) {
            return Ok(demo);
        }
        let mut all = self.list();
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err(VolumeError::NoDefault),
        }
    }

    /// Names of what a client at `peer` can attach to, at most `max`: the volumes, then the snapshots of each.
    #[must_use]
    pub fn exports(&self, peer: IpAddr, max: usize) -> Vec<String> {
        let mut volumes = self.list();
        volumes.retain(|volume| self.settings(volume.id).admits(peer));
        let mut names: Vec<String> = volumes
            .iter()
            .take(max)
            .map(|info| info.name.clone())
            .collect();
        for volume in volumes {
            if names.len() >= max {
                break;
            }
            let room = max - names.len();
            let snapshots = self.shared.store.snapshots_after(volume.id, None, room);
            let snapshots = snapshots.iter();
            names.extend(snapshots.map(|info| format!("{}@{}", volume.name, info.name)));
        }
        names
    }

    /// Makes an empty volume; durable when this returns.
    ///
    /// # Errors
    /// A bad or taken name, a bad size, and what the store says.
    pub async fn create(&self, name: &str, size_bytes: u64) -> Result<VolumeInfo, VolumeError> {
        check_name(name)?;
        check_size(size_bytes)?;
        Ok(self.shared.store.create_volume(name, size_bytes).await?)
    }

    /// Checks that a volume could now be made with this name and size.
    ///
    /// # Errors
    /// A bad or taken name, a bad size.
    pub fn check_new(&self, name: &str, size_bytes: u64) -> Result<(), VolumeError> {
        check_name(name)?;
        check_size(size_bytes)?;
        match self.store().find(name) {
            Some(_) => Err(VolumeError::NameTaken),
            None => Ok(()),
        }
    }

    /// Makes a volume larger; durable when this returns. Attached clients may use the new room as soon as they know.
    ///
    /// # Errors
    /// No such volume, a bad size, a smaller one, and what the store says.
    pub async fn grow(&self, name: &str, size_bytes: u64) -> Result<VolumeInfo, VolumeError> {
        let info = self.get(name)?;
        self.standing(info.id).require_owner()?;
        check_growth(&info, size_bytes)?;
        let grown = self.shared.store.grow_volume(info.id, size_bytes).await?;
        if let Some(attachment) = self.shared.attachments.get(info.id.into()) {
            attachment.size_bytes.set(grown.size_bytes);
        }
        Ok(grown)
    }

    /// Gives a volume another name; durable when this returns. Attached clients go on.
    ///
    /// # Errors
    /// No such volume, a bad or taken name, and what the store says.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<VolumeInfo, VolumeError> {
        let info = self.get(name)?;
        self.standing(info.id).require_owner()?;
        self.check_new_name(&info, new_name)?;
        Ok(self.shared.store.rename_volume(info.id, new_name).await?)
    }

    /// Checks that a volume could now be called `new_name` and have `size_bytes`, as far as each is wanted.
    ///
    /// # Errors
    /// As [`rename`](Self::rename) and [`grow`](Self::grow).
    pub fn check_change(
        &self,
        name: &str,
        new_name: Option<&str>,
        size_bytes: Option<u64>,
    ) -> Result<VolumeInfo, VolumeError> {
        let info = self.get(name)?;
        self.standing(info.id).require_owner()?;
        new_name.map_or(Ok(()), |name| self.check_new_name(&info, name))?;
        size_bytes.map_or(Ok(()), |size| check_growth(&info, size))?;
        Ok(info)
    }

    fn check_new_name(&self, info: &VolumeInfo, name: &str) -> Result<(), VolumeError> {
        check_name(name)?;
        match self.shared.store.find(name) {
            Some(other) if other.id != info.id => Err(VolumeError::NameTaken),
            _ => Ok(()),
        }
    }

    /// Deletes a volume and its snapshots; gone at once and durably, their space comes back in the background. What is
    /// under way is done with before. Clients attached by force are told.
    ///
    /// # Errors
    /// No such volume, [`VolumeError::Attached`] or [`VolumeError::Needed`] unless `force`, one that is being moved, and what the store
    /// says; the volume stays then.
    pub async fn delete(&self, name: &str, force: bool) -> Result<(), VolumeError> {
        let info = self.get(name)?;
        self.standing(info.id).require_deletable(force)?;
        self.delete_anyway(&info, force).await
    }

    pub(crate) async fn delete_anyway(
        &self,
        info: &VolumeInfo,
        force: bool,
    ) -> Result<(), VolumeError> {
        let snapshots = self.shared.store.snapshots(info.id);
        let ending = self.shared.attachments.end(
            (info.id.into(), &info.name, info.size_bytes),
            snapshots.iter().map(|snapshot| snapshot.id.into()),
            End::Deleted,
            force,
        )?;
        drop(snapshots);
        ending.quiet().await;
        self.shared.store.delete_volume(info.id).await?;
        self.usages().forget();
        self.shared.traffic.borrow_mut().remove(&info.id);
        self.shared.standings.borrow_mut().remove(&info.id);
        ending.confirm();
        self.forget_settings(info.id).await;
        self.forget_adoptions().await;
        Ok(())
    }

    /// Clients attached to a volume or snapshot.
    #[must_use]
    pub fn clients(&self, of: impl Into<Source>) -> usize {
        self.shared.attachments.clients(of.into())
    }

    /// From where the clients of a volume or snapshot come, as far as that is known; each address once.
    #[must_use]
    pub fn peers(&self, of: impl Into<Source>) -> Vec<IpAddr> {
        self.shared.attachments.peers(of.into())
    }

    /// Whether a volume is gone for good. One whose deletion is under way is not: a power cut may bring it back.
    #[must_use]
    pub fn is_gone(&self, id: VolumeId) -> bool {
        self.shared.store.volume(id).is_none() && self.shared.attachments.get(id.into()).is_none()
    }

    /// What users set for a volume.
    #[must_use]
    pub fn settings(&self, id: VolumeId) -> Settings {
        let settings = self.shared.settings.borrow();
        settings.get(&id).cloned().unwrap_or_default()
    }

    pub(crate) fn keep_settings(&self, id: VolumeId, settings: Settings) {
        if let Some(attachment) = self.shared.attachments.get(id.into()) {
            attachment.read_only.set(settings.read_only);
        }
        if let Some(traffic) = self.traffic(id) {
            traffic.pace().set(settings.limits);
        }
        self.shared.settings.borrow_mut().insert(id, settings);
    }

    pub(crate) async fn settings_turn(&self) -> Permit {
        self.shared.settings_turn.acquire().await
    }

    pub(crate) fn take_settings(&self, id: VolumeId) -> bool {
        self.shared.settings.borrow_mut().remove(&id).is_some()
    }

    /// Attaches a client at `peer`, as [`attach`](Self::attach) does.
    ///
    /// # Errors
    /// As [`attach`](Self::attach), and [`VolumeError::NotAllowed`].
    pub fn attach_from(
        &self,
        peer: IpAddr,
        name: &str,
        access: Access,
    ) -> Result<Volume<D>, VolumeError> {
        let volume = self.resolve(name)?.volume;
        if !self.settings(volume).admits(peer) {
            return Err(VolumeError::NotAllowed);
        }
        let export = self.resolve(name)?;
        self.attach_as(Some(peer), export, access)
    }

    /// Attaches a client to what it means by `name` (see [`resolve`](Self::resolve)). Snapshots, and a pool that takes no
    /// writes, attach read-only.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), [`VolumeError::Elsewhere`], and [`VolumeError::Deleted`] or [`VolumeError::RolledBack`] while that is
    /// under way.
    pub fn attach(&self, name: &str, access: Access) -> Result<Volume<D>, VolumeError> {
        let export = self.resolve(name)?;
        self.attach_as(None, export, access)
    }

    /// Attaches whoever needs a volume or snapshot for another appliance: read-only, and whosever it is.
    ///
    /// # Errors
    /// No such volume or snapshot, and as [`attach`](Self::attach).
    pub fn attach_inside(&self, of: impl Into<Source>) -> Result<Volume<D>, VolumeError> {
        let export = match of.into() {
            Source::Volume(id) => {
                let info = self.store().volume(id).ok_or(VolumeError::NoVolume)?;
                Export::from(info)
            }
            Source::Snapshot(id) => {
                let info = self.store().snapshot(id).ok_or(VolumeError::NoSnapshot)?;
                Export::from(info)
            }
        };
        Ok(self.open(None, export, Access::ReadOnly)?.for_inside())
    }

    fn attach_as(
        &self,
        peer: Option<IpAddr>,
        export: Export,
        access: Access,
    ) -> Result<Volume<D>, VolumeError> {
        if let Source::Volume(id) = export.source {
            self.standing(id).require(false)?;
        }
        self.open(peer, export, access)
    }

    fn open(
        &self,
        peer: Option<IpAddr>,
        export: Export,
        access: Access,
    ) -> Result<Volume<D>, VolumeError> {
        // With its volume goes a snapshot.
        if let (Source::Snapshot(_), Some(volume)) = (
            export.source,
            self.shared.attachments.get(export.volume.into()),
        ) && volume.require_open() == Err(VolumeError::Deleted)
        {
            return Err(VolumeError::Deleted);
        }
        let access = match (self.shared.store.pool().state, export.source) {
            (PoolState::Serving, Source::Volume(_)) => access,
            _ => Access::ReadOnly,
        };
        let attachments = &self.shared.attachments;
        let attachment =
            attachments.attach(export.source, &export.name, export.size_bytes, peer)?;
        if let Source::Volume(id) = export.source {
            attachment.standing.set(self.standing(id));
        }
        let settings = self.shared.settings.borrow();
        let wanted = settings.get(&export.volume);
        attachment
            .read_only
            .set(wanted.is_some_and(|settings| settings.read_only));
        let limits = wanted.map(|settings| settings.limits).unwrap_or_default();
        drop(settings);
        let traffic = self.traffic_entry(export.volume);
        traffic.pace().set(limits);
        Ok(Volume::new(self.clone(), attachment, traffic, access, peer))
    }

    /// Operations that clients have begun so far: whether it grows tells whether somebody is waiting.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.shared.attachments.operations()
    }

    /// The store, for what concerns no client: records, scrubbing.
    #[must_use]
    pub fn store(&self) -> &Store<D> {
        &self.shared.store
    }
}

impl<D> Volumes<D> {
    /// Says how origins are reached, and how many pages there are for what arrives from there; until then none can be. A fetch takes up to
    /// 32 of them; half are for clients only.
    pub fn reach_origins_by(&self, origins: Rc<dyn Origins>, pages: usize) {
        let [demand, background] = [(); 2].map(|()| Pool::new(pages / 2));
        let pages = FetchPages { demand, background };
        *self.shared.origins.borrow_mut() = Some((origins, pages));
    }

    pub(crate) fn origins(&self) -> Result<Rc<dyn Origins>, OriginError> {
        let origins = self.shared.origins.borrow();
        let origins = origins.as_ref().map(|(origins, _)| origins.clone());
        origins.ok_or(OriginError::Unreachable)
    }

    pub(crate) fn fetch_pages(&self, reason: Reason) -> Result<Pool, OriginError> {
        let origins = self.shared.origins.borrow();
        let pages = origins.as_ref().map(|(_, pages)| match reason {
            Reason::Demand => pages.demand.clone(),
            Reason::Background => pages.background.clone(),
        });
        pages.ok_or(OriginError::Unreachable)
    }

    /// Looks at what is adopted, or changes it, in one breath.
    pub(crate) fn adoptions_mut<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<BaseId, Rc<Adoption>>) -> T,
    ) -> T {
        change(&mut self.shared.adoptions.borrow_mut())
    }

    pub(crate) fn finished_adoptions(&self) -> &RefCell<Vec<AdoptionInfo>> {
        &self.shared.finished_adoptions
    }

    pub(crate) fn usages(&self) -> &Usages {
        &self.shared.usages
    }

    pub(crate) fn room(&self) -> &Room {
        &self.shared.room
    }

    pub(crate) fn all_traffic(&self) -> &RefCell<BTreeMap<VolumeId, Rc<Traffic>>> {
        &self.shared.traffic
    }

    pub(crate) fn standings(&self) -> &RefCell<BTreeMap<VolumeId, Standing>> {
        &self.shared.standings
    }

    pub(crate) fn attachments(&self) -> &Attachments {
        &self.shared.attachments
    }

    pub(crate) fn detach(&self, attachment: &Rc<Attachment>, peer: Option<IpAddr>) {
        self.shared.attachments.detach(attachment, peer);
    }
}

fn check_growth(info: &VolumeInfo, size_bytes: u64) -> Result<(), VolumeError> {
    check_size(size_bytes)?;
    if size_bytes < info.size_bytes {
        return Err(VolumeError::Shrinks(info.size_bytes));
    }
    Ok(())
}
